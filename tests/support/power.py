"""A machine that dies at a chosen system call, forgets what was not yet on its disk, or has calls fail.

``Machine`` replaces those functions of ``os`` that change files while it is entered and counts them. At call number
``stop_at`` the process is gone, as by kill -9: this call and every later one raises Crash and does nothing, but
for a ``torn`` write, which does a part. A Graveyard that watched can make of the kill a power failure.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.graveyard import Graveyard

FUNCTIONS = ("open", "fchmod", "pwrite", "ftruncate", "posix_fallocate", "fsync", "link", "rename", "unlink", "utime")


class Crash(BaseException):
    """The process is gone; nothing that it has in mind is done any more."""


class Machine:
    """One process and what it does to files."""

    def __init__(
        self,
        stop_at: int | None = None,
        torn: float | None = None,
        fail_at: int | None = None,
        error: int = 0,
        disk: Graveyard | None = None,
        room: int | None = None,
    ) -> None:
        """``torn``: the part of the last write that is done; ``fail_at``: the call that fails with ``error`` instead.

        ``disk`` is told of every change; several processes may share it, one after the other.
        ``room``: octets by which files can grow, more when others are cut.
        """
        self.calls = 0
        self.names: list[str] = []  # of the calls: "pwrite bob"
        self._stop_at = stop_at
        self._torn = torn
        self._fail_at = fail_at
        self._error = error
        self._dead = False
        self._real: dict[str, Any] = {}
        self._files: dict[int, os.stat_result] = {}  # what it has opened, and not closed by os.close
        self._disk = disk
        self._room = room

    def __enter__(self) -> Self:
        for name in (*FUNCTIONS, "close"):
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)
        if self._dead:  # the kernel closes what a process had open
            for fd, status in self._files.items():
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(fd), status):
                        os.close(fd)

    def step(self, name: str, file: int | Path = -1) -> None:
        """Count one thing that the process does; the machine may die or refuse right before it."""
        if self._dead:
            raise Crash
        self.calls += 1
        path = Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) and file >= 0 else file
        self.names.append(f"{name} {path.name}" if isinstance(path, Path) else name)
        if self.calls == self._stop_at:
            self._dead = True
            raise Crash
        if self.calls == self._fail_at:
            raise OSError(self._error, os.strerror(self._error))

    def _open(self, path: Any, flags: int, mode: int = 0o777, **others: Any) -> int:
        if flags & os.O_CREAT:
            self.step("create", Path(path))
        fd = int(self._real["open"](path, flags, mode, **others))
        self._files[fd] = os.fstat(fd)
        if self._disk and flags & os.O_CREAT:
            self._disk.created(Path(path))
        return fd

    def _close(self, fd: int) -> None:
        self._files.pop(fd, None)
        self._real["close"](fd)

    def _fchmod(self, fd: int, mode: int) -> None:
        self.step("fchmod", fd)
        self._real["fchmod"](fd, mode)

    def _pwrite(self, fd: int, data: bytes, offset: int) -> int:
        try:
            self.step("pwrite", fd)
        except Crash:
            if self._torn is not None and self.calls == self._stop_at and self.names.count("torn") == 0:
                self.names.append("torn")
                self._write(fd, bytes(data)[: int(len(data) * self._torn)], offset)
            raise
        return self._write(fd, bytes(data), offset)

    def _grow(self, fd: int, size: int) -> None:
        more = size - os.fstat(fd).st_size
        if self._room is not None and more > 0:
            if more > self._room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._room -= more

    def _write(self, fd: int, data: bytes, offset: int) -> int:
        self._grow(fd, offset + len(data))
        if self._disk:
            self._disk.wrote(os.fstat(fd).st_ino, offset, data)
        return int(self._real["pwrite"](fd, data, offset))

    def _ftruncate(self, fd: int, size: int) -> None:
        self.step("ftruncate", fd)
        if self._room is not None:
            self._room += os.fstat(fd).st_size - size
        if self._disk:
            self._disk.cut(os.fstat(fd).st_ino, size)
        self._real["ftruncate"](fd, size)

    def _posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        self.step("fallocate", fd)
        self._grow(fd, offset + size)
        if self._disk:
            self._disk.wrote(os.fstat(fd).st_ino, offset + size, b"")
        self._real["posix_fallocate"](fd, offset, size)

    def _fsync(self, fd: int) -> None:
        self.step("fsync", fd)
        if self._disk:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                self._disk.names_kept()
            else:
                self._disk.kept(status.st_ino)

    def _link(self, path: Any, name: Any, **others: Any) -> None:
        self.step("link", Path(name))
        self._real["link"](path, name, **others)
        if self._disk:
            self._disk.named()

    def _rename(self, path: Any, name: Any, **others: Any) -> None:
        self.step("rename", Path(path))
        self._real["rename"](path, name, **others)
        if self._disk:
            self._disk.named()

    def _unlink(self, path: Any, **others: Any) -> None:
        self.step("unlink", Path(path))
        self._real["unlink"](path, **others)
        if self._disk:
            self._disk.named()

    def _utime(self, path: Any, *args: Any, **others: Any) -> None:
        self.step("utime", Path(path))
        self._real["utime"](path, *args, **others)
