"""An SQLite database that one process keeps to itself for long: the others see it at once, and do not queue up."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

SUFFIX = "-hold"


@contextlib.contextmanager
def holding(database: Path) -> Iterator[None]:
    """Say until the block ends, or the process does, that nobody else is to write. Raises BlockingIOError."""
    path = database.with_name(database.name + SUFFIX)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def is_held(database: Path) -> bool:
    """Whether another process keeps a database to itself; a file that one left behind when it died says nothing."""
    path = f"{database}{SUFFIX}"
    if not os.access(path, os.F_OK):  # as it is at every transaction
        return False
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
