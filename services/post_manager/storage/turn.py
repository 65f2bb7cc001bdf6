"""Whose turn it is to write: one thread of all processes on this machine that share a database file."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

SUFFIX = "-turn"


class Turn:
    """A lock for ``with``, across threads and processes; a process that dies gives it back.

    SQLite takes one writer at a time and lets the others poll, asleep for milliseconds. Here they queue up in the
    kernel, and the next one wakes up at once. Make it after a fork, never before.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + SUFFIX)
        self._lock = threading.Lock()
        self._file: int | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._lock.release()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Wait for the thread whose turn it is, close the file, and have no thread take a turn within the block."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
            yield
