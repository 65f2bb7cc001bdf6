"""kill -9 for all processes of a store at once, at a point of a transaction that a test names while the store runs.

A test writes "WHEN SKIP NEEDLE" into the file that the environment names: WHEN is ``statement`` (just before one that
contains NEEDLE), ``before`` or ``after`` (the commit of a transaction that made such a statement); SKIP is how many
times that is let pass. The worker process reads it at each step.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.statements import watch_statements
from tests.support.store_process import REPOSITORY, descendants

VARIABLE = "STUBMAIL_TEST_KILL_POINT"

_local = threading.local()
_passed = 0


def arm() -> None:
    """In the process to be killed: begin to look for the point, and do chores without waiting."""
    from sqlalchemy import Engine, event
    from sqlalchemy.engine.default import DefaultDialect

    from services.post_manager import chores

    chores.WAKE = 0.05
    commit = DefaultDialect.do_commit

    def do_commit(dialect: DefaultDialect, connection: Any) -> None:
        statements = _statements()
        _local.statements = []
        _reach("before", statements)
        commit(dialect, connection)
        _reach("after", statements)

    def execute(statement: str, _values: object) -> None:
        _statements().append(statement)
        _reach("statement", [statement])

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]
    watch_statements(execute)
    event.listen(Engine, "rollback", lambda _connection: _statements().clear())


def _statements() -> list[str]:
    """Those of this thread's transaction."""
    if not hasattr(_local, "statements"):
        _local.statements = []
    found: list[str] = _local.statements
    return found


def _reach(when: str, statements: Iterable[str]) -> None:
    global _passed
    try:
        wanted, skip, needle = Path(os.environ[VARIABLE]).read_text().split(" ", 2)
    except (FileNotFoundError, ValueError):
        return
    if wanted == when and any(needle in statement for statement in statements):
        _passed += 1
        if _passed > int(skip):
            _kill_all()


def _kill_all() -> None:
    """This process's master, whoever started that, and all that it started; this process last."""
    stat = Path(f"/proc/{os.getppid()}/stat").read_text()
    root = int(stat.rpartition(")")[2].split()[1])
    for pid in descendants(root):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):  # none outlives its parent for long
                os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class KillPoint:
    """The test's side."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self, when: str, needle: str, skip: int = 0) -> None:
        """Have the store that runs be killed at a point."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{when} {skip} {needle}")
        new.rename(self._path)

    def clear(self) -> None:
        """Let the next one live."""
        self._path.unlink()


@contextmanager
def kill_point(directory: Path) -> Iterator[KillPoint]:
    """Stores that are started meanwhile can be killed from inside."""
    path = directory / "kill"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(path))
        inside = Path(__file__).parent / "killed_inside"
        patch.setenv("PYTHONPATH", os.pathsep.join([str(inside), str(REPOSITORY)]))
        yield KillPoint(path)
