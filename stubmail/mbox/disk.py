"""The system calls that change files, all in one place, so that tests can let the power fail at each of them.

Nothing else in the package writes, truncates, links, renames or removes; a test replaces the functions of ``os``.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from stubmail.mbox.errors import MboxError, NoRoom, NotMbox

PIECE = 1 << 20  # octets read or written at a time

_FULL = {errno.ENOSPC: "4.3.1", errno.EFBIG: "4.3.1", errno.EDQUOT: "4.2.2"}  # RFC 3463 §3.4, §3.3


@contextlib.contextmanager
def failures(path: Path) -> Iterator[None]:
    """Turn any OSError inside the block into an MboxError about ``path``."""
    try:
        yield
    except OSError as error:
        if code := _FULL.get(error.errno or 0):
            raise NoRoom(code, f"mailbox {path}: {error}") from error
        raise MboxError("4.3.0", f"mailbox {path}: {error}") from error


def is_full(error: BaseException) -> bool:
    """Whether there was no room on the disk, or in the user's quota of it."""
    return isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in _FULL)


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close the descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_file(path: Path, flags: int = os.O_RDWR) -> int:
    """Open a regular file that is there. Raises NotMbox for anything else at that path, OSError."""
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)  # no waiting for a FIFO's other end
    except OSError as error:
        if error.errno == errno.ELOOP:  # two names would mean two locks and two journals
            raise NotMbox("4.3.0", f"mailbox {path} is a symbolic link: the file's own path is needed") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotMbox("4.3.0", f"mailbox {path} is not a regular file")
    return fd


def open_own(path: Path, mailbox: int) -> int | None:
    """Open a journal for reading and writing, or return None when there is none.

    In a directory that others may write to (/var/mail), a forged journal would have us cut up the mailbox: only one
    made by this user, the owner of the open ``mailbox`` or root is taken. Raises MboxError for another.
    """
    try:
        fd = open_file(path)
    except FileNotFoundError:
        return None
    status = os.fstat(fd)
    if status.st_uid not in (os.geteuid(), os.fstat(mailbox).st_uid, 0) or status.st_mode & 0o022:
        os.close(fd)
        raise MboxError("4.3.0", f"{path} was not made by the mailbox's owner: remove it")
    return fd


def create(path: Path) -> int:
    """Create a file that only its owner may read, whatever the umask. Raises FileExistsError, OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(fd, 0o600)
    except OSError:
        os.close(fd)
        remove(path)
        raise
    return fd


def read(fd: int, size: int, offset: int) -> bytes:
    """Read ``size`` octets, fewer only at the end of the file."""
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data


def pieces(fd: int, start: int, end: int, size: int = PIECE) -> Iterator[bytes]:
    """Read [start, end) in pieces. Raises MboxError when the file ends before."""
    while start < end:
        data = os.pread(fd, min(size, end - start), start)
        if not data:
            raise MboxError("4.3.0", "the mailbox has become shorter than it was")
        yield data
        start += len(data)


def write(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def copy(source: int, start: int, end: int, target: int, offset: int) -> None:
    """Copy [start, end) of one file to ``offset`` of another."""
    for data in pieces(source, start, end):
        write(target, data, offset)
        offset += len(data)


def reserve(fd: int, size: int) -> None:
    """See to it that ``size`` octets from the file's start can be written without the disk being full then."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def truncate(fd: int, size: int) -> None:
    """Cut the file to ``size`` octets."""
    os.ftruncate(fd, size)


def sync(fd: int) -> None:
    """Return when the file's octets and size are on disk."""
    os.fsync(fd)


def sync_directory(path: Path) -> None:
    """Return when the name at ``path``, or its absence, is on disk."""
    with closing(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        os.fsync(fd)


def link(path: Path, name: Path) -> None:
    """Give a file a second name. Raises FileExistsError when the name is taken."""
    name.hardlink_to(path)


def rename(path: Path, name: Path) -> None:
    """Give a file another name, in place of what had it, durably."""
    path.rename(name)
    sync_directory(name)


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    path.unlink(missing_ok=True)


def drop(path: Path) -> None:
    """Remove a file if it is there, durably."""
    remove(path)
    sync_directory(path)


def touch(path: Path) -> None:
    """Set a file's time of modification to now."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(path, follow_symlinks=False)


def new_hash() -> hashlib.blake2b:
    """Return the hash that journals carry, 24 octets: enough to tell what was not written to its end."""
    return hashlib.blake2b(digest_size=24)


def hash_of(parts: Iterable[bytes]) -> bytes:
    """Hash what is in all the parts."""
    whole = new_hash()
    for part in parts:
        whole.update(part)
    return whole.digest()
