"""kill -9 at every step of what a process does to databases and files."""

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from tests.support.statements import watch_statements

_FILES = ("fsync", "link", "rename", "replace", "unlink", "ftruncate")


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do something in a process of its own that is killed at a step; return whether it got so far.

    Steps are SQL statements, commits (twice: before and after), and calls that change files' names and lengths.
    """
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            try:
                _die_at(step)
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0
    return killed


def every_cut(work: Callable[[], object], most: int, stride: int = 1) -> Iterator[int]:
    """Have ``work`` killed at step 0, ``stride`` and so on, until it survives; the caller looks at each outcome."""
    for step in range(0, most, stride):
        killed = killed_at(step, work)
        yield step
        if not killed:
            assert step > 10 * stride, "it was hardly ever killed"
            return
    raise AssertionError(f"it has more than {most} steps")


def _die_at(step: int) -> None:
    left = step

    def count(*_: object) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def counted(function: Callable[..., Any], twice: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count()
            result = function(*arguments, **options)
            if twice:
                count()
            return result

        return call

    watch_statements(count)
    DefaultDialect.do_commit = counted(DefaultDialect.do_commit, twice=True)  # type: ignore[method-assign]
    for name in _FILES:
        setattr(os, name, counted(getattr(os, name)))
