"""The directory that mail is fetched into: a message appears in it whole, under a name of its own, or not at all."""

import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from commands.popcl.names import variant
from stubmail.errors import PermanentError, TemporaryError
from stubmail.spool import sync_directory

PIECE = 1 << 16  # octets compared at once
_TEMPORARY = ".popcl-"  # no name of a message begins with a full stop
_PROC = Path("/proc/self/fd")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


class CannotCreate(PermanentError):
    """The directory is not there and cannot be made, or cannot be written to."""


class Draft:
    """A message on its way to the disk, without a name that anybody would take for a message's."""

    def __init__(self, file: BinaryIO, temporary: str | None) -> None:
        self.file = file
        self.temporary = temporary  # its name for the time being; None where files can be without
        self.size = 0  # octets
        self._hash = hashlib.sha256()

    def write(self, octets: bytes) -> None:
        """Add a piece."""
        self.file.write(octets)
        self._hash.update(octets)
        self.size += len(octets)

    @property
    def digest(self) -> str:
        """SHA-256 of what was written, in hex."""
        return self._hash.hexdigest()


class OutDir:
    """An open directory, locked against other programs of this kind. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Make the directory if it is not there. Raises CannotCreate, TemporaryError."""
        self._path = path
        self._ours: set[str] = set()  # names that got their message now
        try:
            _make(path)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CannotCreate("5.3.0", f"cannot use the directory {path}: {error.strerror}") from error
        try:
            self._lock()
            with self._complaining():
                for leftover in path.glob(_TEMPORARY + "[0-9a-f]" * 16):  # of one that died
                    leftover.unlink()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def had(self, name: str) -> bool:
        """Whether there was something of this name before."""
        return name not in self._ours and self._exists(name)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is there."""
        return next(self._path.iterdir(), None) is None

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Begin a message; unless it is kept, nothing of it is left. Raises CannotCreate, TemporaryError."""
        with self._complaining():
            draft = self._begin()
            try:
                with draft.file:
                    yield draft
            finally:
                if draft.temporary is not None:
                    with suppress(FileNotFoundError):
                        os.unlink(draft.temporary, dir_fd=self._descriptor)

    def keep(self, draft: Draft, name: str) -> tuple[str, bool]:
        """Give a message its name, once it is on disk; return the name, and whether it is new.

        When another message has the name, this one gets the name's variant; when the same message has one of the two,
        nothing changes. Call ``sync`` before relying on the name.
        """
        draft.file.flush()
        os.fsync(draft.file.fileno())
        for candidate in (name, variant(name, draft.digest)):
            try:
                self._link(draft, candidate)
            except FileExistsError:
                if self._is(draft, candidate):
                    return candidate, False
            else:
                self._ours.add(candidate)
                return candidate, True
        raise TemporaryError("4.3.0", f"{self._path / variant(name, draft.digest)} is in the way of a message")

    def sync(self) -> None:
        """Have all names on disk. Raises TemporaryError."""
        with self._complaining():
            os.fsync(self._descriptor)

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _begin(self) -> Draft:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            if not _PROC.is_dir():
                raise OSError(errno.EOPNOTSUPP, "a file without a name could not get one later")
            descriptor = os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self._descriptor)
            return Draft(os.fdopen(descriptor, "w+b"), None)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                raise
        name = _TEMPORARY + secrets.token_hex(8)
        descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._descriptor)
        return Draft(os.fdopen(descriptor, "w+b"), name)

    def _link(self, draft: Draft, name: str) -> None:
        """Give the file its name, never one that is taken. Raises FileExistsError."""
        here = self._descriptor
        if draft.temporary is None:
            os.link(f"{_PROC}/{draft.file.fileno()}", name, dst_dir_fd=here, follow_symlinks=True)
            return
        try:
            os.link(draft.temporary, name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self._exists(name):
                raise FileExistsError(errno.EEXIST, "the name is taken", name) from error
            os.rename(draft.temporary, name, src_dir_fd=here, dst_dir_fd=here)

    def _is(self, draft: Draft, name: str) -> bool:
        """Whether the file of this name has the same content."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except OSError:
            return False  # a symbolic link, or not to be read: at any rate it is not surely the same
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != draft.size:
            os.close(descriptor)
            return False
        with os.fdopen(descriptor, "rb") as present:
            draft.file.seek(0)
            while piece := present.read(PIECE):
                if piece != draft.file.read(len(piece)):
                    return False
            os.fsync(descriptor)  # it may be younger than the last crash
            return True

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TemporaryError("4.3.0", f"another popcl is fetching into {self._path}") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        """Turn what the system says about a file into an error with the directory's name."""
        try:
            yield
        except PermissionError as error:
            raise CannotCreate("5.3.0", f"cannot write to {self._path}: {error.strerror}") from error
        except OSError as error:
            raise TemporaryError("4.3.1", f"cannot write to {self._path}: {error.strerror or error}") from error


def _make(path: Path) -> None:
    """Make a directory that survives a crash, with those above it; one that is there is left as it is."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        sync_directory(each.parent)
    with suppress(PermissionError):  # a directory that is not ours to sync is not one that we made
        sync_directory(path.absolute().parent)
