"""Counters that all processes of a service share: a memory-mapped file of fixed size, one row for each process.

A process holds its row by a lock that the kernel takes back when it dies. The row keeps its numbers, and whoever holds
it next goes on from there: totals never go back, and nothing grows with the number of processes that ever lived.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

ROWS = 192  # processes at once; those that come when all rows are held share the first one, at the price of a lock
_PREFIX = "counters-"
_COLUMN = 8  # octets: one unsigned number, read and written at once
_HEADER = struct.Struct("=8sII48x")
_MAGIC = b"STUBCNT1"
_FLOCK = "hhqqi0q"  # struct flock: type, whence, start, length, pid


class Counters:
    """Numbers by name, for all threads of a process, and with a directory for all processes that name the same one.

    The names are declared at the beginning; any other one is a programming error (KeyError). Make it after a fork,
    never before: two processes must not hold one row.
    """

    def __init__(self, names: Iterable[str], directory: Path | None = None) -> None:
        """Begin to count; without a directory in memory. Raises OSError when there is no room for the file."""
        ordered = sorted(set(names))
        self._index = {name: index for index, name in enumerate(ordered)}
        self._lock = threading.Lock()
        self._file: int | None = None
        self._shared = False
        size = len(ordered) * _COLUMN
        if directory is None:
            self._map = mmap.mmap(-1, max(size, 1))
            self._table, row = memoryview(self._map)[:size], 0
        else:
            self._file = _open(directory, ordered)
            self._map = mmap.mmap(self._file, 0)
            row = _take_row(self._file)
            self._shared = row == 0
            self._table = memoryview(self._map)[_HEADER.size : _HEADER.size + ROWS * size]
        self._numbers = self._table.cast("Q")
        self._row = self._numbers[row * len(ordered) : (row + 1) * len(ordered)]
        self._before = [0] * len(ordered) if self._shared else self._row.tolist()

    def add(self, name: str, number: int = 1) -> None:
        """Count something."""
        index = self._index[name]
        with self._lock:
            if self._shared:
                self._add_shared(index, number)
            else:
                self._row[index] += number

    def __getitem__(self, name: str) -> int:
        """Return what all processes together have counted."""
        return sum(self._numbers[self._index[name] :: len(self._index)])

    def totals(self) -> dict[str, int]:
        """Return what all processes together have counted, by name."""
        return {name: self[name] for name in self._index}

    def snapshot(self) -> dict[str, int]:
        """Return what this process counted itself, less what is 0, by names that a log line can have."""
        now = self._before if self._shared else self._row.tolist()
        added = zip(self._index, now, self._before, strict=True)
        return {name.replace(" ", "_"): number - before for name, number, before in added if number > before}

    def close(self) -> None:
        """Give the row to the next process; nothing can be counted any more."""
        with self._lock:
            for view in (self._row, self._numbers, self._table):
                view.release()
            self._map.close()
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _add_shared(self, index: int, number: int) -> None:
        assert self._file is not None
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK, 0))
        try:
            self._row[index] += number
        finally:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, 0))


def _flock(kind: int, row: int) -> bytes:
    """One octet's lock stands for a row. It is the open file's (F_OFD_SETLK, fcntl(2)), not the whole process's."""
    return struct.pack(_FLOCK, kind, os.SEEK_SET, _HEADER.size + row, 1, 0)


def _take_row(file: int) -> int:
    for row in range(1, ROWS):
        with contextlib.suppress(BlockingIOError):
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, row))
            return row
    return 0


def _open(directory: Path, names: list[str]) -> int:
    """Open the file for these names; make it when it is not there or not whole.

    Its name depends on theirs: an older program that still runs beside this one counts in a file of its own.
    """
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    path = directory / f"{_PREFIX}{digest}"
    header = _HEADER.pack(_MAGIC, ROWS, len(names))
    size = _HEADER.size + ROWS * len(names) * _COLUMN
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process makes the file, the others wait for it
        with contextlib.suppress(FileNotFoundError):
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            if os.fstat(file).st_size == size and os.pread(file, len(header), 0) == header:
                return file
            os.close(file)
        return _make(path, header, size)
    finally:
        os.close(lock)


def _make(path: Path, header: bytes, size: int) -> int:
    """Put a whole file of zeros in place, with room on the disk: a page that cannot be written would be a SIGBUS."""
    for older in path.parent.glob(f"{_PREFIX}*"):
        older.unlink(missing_ok=True)
    temporary = path.with_name(f"{_PREFIX}new")
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, size)
        os.pwrite(file, header, 0)
        temporary.rename(path)
    except OSError:
        os.close(file)
        temporary.unlink(missing_ok=True)
        raise
    return file
