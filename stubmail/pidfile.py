"""Which process runs a service: a file locked as long as that lives, so that nobody else is ever taken for it."""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from stubmail.errors import Exit

_FLOCK = "hhqqi0q"  # struct flock: type, whence, start, length, pid


@contextlib.contextmanager
def running(path: Path, what: str) -> Iterator[None]:
    """While the block lasts, this process is the one that runs the service. Raises Exit when another one does.

    The lock is this process's own (F_SETLK, fcntl(2)): children do not inherit it, and the kernel tells whose it is.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            pid = _holder(descriptor)
            raise Exit(os.EX_UNAVAILABLE, f"{what} already, as process {pid or '?'} ({path})") from error
        with contextlib.suppress(OSError):  # it is for people, programs ask the kernel: a full disk stops nothing
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """Return the id of the process that runs the service, None when none does that can be seen from here."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    """Ask the kernel who holds the lock; in another pid namespace there may be no number for it here."""
    found = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind, _, _, _, pid = struct.unpack(_FLOCK, found)
    return int(pid) if kind != fcntl.F_UNLCK and pid > 0 else None
