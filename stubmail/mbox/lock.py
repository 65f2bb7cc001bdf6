"""The mailbox's delivery lock: an fcntl lock on the file, then a dotlock beside it (Debian policy §11.6).

The fcntl lock is an open file description lock: it stands against the classic fcntl locks of other programs, but holds
between threads too, and closing another descriptor of the file in this process does not drop it, as it would
drop a classic one. Both locks are tried without waiting, and both are let go before the next try, so that
programs that take them in the other order cannot block us for good.
"""

import contextlib
import fcntl
import os
import random
import re
import socket
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from stubmail.mbox import disk
from stubmail.mbox.errors import MailboxBusy

STALE_SECONDS = 300  # a dotlock that nobody touched for so long has been left behind, whoever made it
ORPHAN_SECONDS = 10  # one of ours without the fcntl lock, made on another host or in another container
REFRESH_SECONDS = 2

_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.03  # seconds between two tries, less a random part
_jitter = random.SystemRandom()


class MailboxLock:
    """Holds the mailbox against every other process and thread, ours or a legacy program's, while in ``with``.

    ``path`` must exist unless ``create``: then it is made with mode 0600. ``timeout`` is in seconds.
    Entering raises MailboxBusy after the timeout, NotMbox when the path is no regular file, MboxError otherwise.
    """

    def __init__(self, path: Path, timeout: float = 30.0, *, create: bool = False) -> None:
        self.path = path
        self.fd = -1  # the locked file, open for reading and writing, inside the ``with`` block
        self._timeout = timeout
        self._create = create
        self._dotlock = Path(f"{path}.lock")
        self._inode = 0
        self._refreshed = 0.0

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._timeout
        pause = _FIRST_PAUSE
        with disk.failures(self.path):
            while not self._try():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise MailboxBusy("4.2.0", f"mailbox {self.path} is locked by another program")
                time.sleep(min(left, pause * _jitter.uniform(0.5, 1)))
                pause = min(pause * 1.5, _LONGEST_PAUSE)
        self._refreshed = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # A dotlock that cannot be removed stays behind without the fcntl lock, and will be seen to be stale.
            with contextlib.suppress(OSError):
                if _inode(self._dotlock) == self._inode:
                    disk.remove(self._dotlock)
        finally:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_UNLCK))  # a forked child may have a copy
            os.close(self.fd)
            self.fd = -1

    def refresh(self) -> None:
        """Show that the holder is alive; long operations call it as often as they like."""
        if time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            with disk.failures(self.path):
                disk.touch(self._dotlock)

    def _try(self) -> bool:
        fd = self._open()
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
            # Whoever held the lock may have put another file in this one's place.
            if _inode(self.path) == os.fstat(fd).st_ino and self._take_dotlock():
                self.fd = fd
        except BlockingIOError:
            pass
        finally:
            if self.fd != fd:
                os.close(fd)
        return self.fd == fd

    def _open(self) -> int:
        try:
            return disk.open_file(self.path)
        except FileNotFoundError:
            if not self._create:
                raise
        with contextlib.suppress(FileExistsError), disk.closing(disk.create(self.path)):
            disk.sync_directory(self.path)
        return disk.open_file(self.path)

    def _take_dotlock(self) -> bool:
        """Make the dotlock with its content in one step. Only who holds the fcntl lock gets here."""
        if not self._clear_stale():
            return False
        draft = Path(f"{self._dotlock}.stub")
        disk.remove(draft)
        with disk.closing(disk.create(draft)) as fd:
            _sign(fd)
            self._inode = os.fstat(fd).st_ino
        try:
            disk.link(draft, self._dotlock)
        except FileExistsError:
            return False
        finally:
            disk.remove(draft)
        return True

    def _clear_stale(self) -> bool:
        """Return whether there is no dotlock, or was only one whose maker is gone."""
        try:
            status = self._dotlock.lstat()
            fd = os.open(self._dotlock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return True
        with disk.closing(fd):
            content = os.read(fd, 512)
        age, uptime = time.time() - status.st_mtime, time.clock_gettime(time.CLOCK_BOOTTIME)
        if not is_stale(content, age, uptime):
            return False
        if _inode(self._dotlock) == status.st_ino:
            disk.remove(self._dotlock)
        return True


def _sign(fd: int) -> None:
    """Write into a dotlock whose it is. On a full disk it stays empty, and will do: whoever deletes mail makes room."""
    try:
        disk.write(fd, f"{os.getpid()}:{socket.gethostname()}\n{_place()}\n".encode(), 0)
    except OSError as error:
        if not disk.is_full(error):
            raise


def is_stale(content: bytes, age: float, uptime: float) -> bool:
    """Whether a dotlock with this content, untouched for ``age`` seconds, was left behind; we hold the fcntl lock."""
    if not content:  # the disk was full; and a power failure empties files that were written to right before
        return age > min(uptime, STALE_SECONDS)
    first, _, second = content.decode("utf-8", "replace").partition("\n")
    pid, _, host = first.partition(":")
    here = host == socket.gethostname()
    if second.startswith("stubmail"):
        # Its maker takes the fcntl lock first and lets it go last, so that one is gone.
        return (here and second == f"{_place()}\n") or age > ORPHAN_SECONDS
    if here and re.fullmatch(r"[1-9][0-9]{0,8}", pid, re.ASCII) and not _alive(int(pid)):
        return True
    return age > STALE_SECONDS


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _place() -> str:
    """Names the set of processes that this one's locks are known to: two containers may share a host name."""
    try:
        return f"stubmail {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "stubmail"


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return -1


def _whole_file(kind: int) -> bytes:
    """A struct flock (fcntl(2)) for the whole file."""
    return struct.pack("hhqqi", kind, os.SEEK_SET, 0, 0, 0)
