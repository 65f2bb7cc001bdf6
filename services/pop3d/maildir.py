"""Maildrops in the Maildir format: one file a message, whose name is its unique-id (cr.yp.to/proto/maildir.html)."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from services.pop3d.lock import SessionLock
from services.pop3d.maildir_sizes import FileState, Sizes
from stubmail.errors import PermanentError, TemporaryError
from stubmail.line_ends import LineEnds, whole
from stubmail.spool import sync_directory

CHUNK = 65_536
LOCK = ".pop3d-lock"

_UID = re.compile(r"[\x21-\x7e]{1,70}")
_TIME = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class MaildirLocation:
    """A directory with ``new``, ``cur`` and ``tmp`` in it."""

    path: Path

    def open(self) -> "Maildir":
        """Lock it for this session, move what is new to cur, and look at what is there."""
        self.check()
        lock = SessionLock(self.path / LOCK)
        try:
            return Maildir(self.path, lock)
        except BaseException:
            lock.release()
            raise

    def check(self) -> None:
        """Raise PermanentError unless its directories are there, to be read and written."""
        for directory in (self.path, *(self.path / name for name in ("new", "cur", "tmp"))):
            if not directory.is_dir():
                raise PermanentError("5.3.5", f"{self.path} is no Maildir: {directory} is not a directory")
            if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                raise PermanentError("5.3.5", f"{directory} cannot be read and written")

    def reset(self) -> None:
        """Move every message back to new, without its flags, and forget the sizes, but only if every move worked.

        Raises InUse, OSError, PermanentError; TemporaryError when a message of that name is in new already.
        """
        self.check()
        lock = SessionLock(self.path / LOCK)
        try:
            for name in _names(self.path / "cur"):
                _move(self.path / "cur" / name, self.path / "new" / _base(name))
            Sizes.forget(self.path)
        finally:
            lock.release()


class Maildir:
    """An open Maildir; see services.pop3d.maildrop.Maildrop."""

    def __init__(self, path: Path, lock: SessionLock) -> None:
        self._cur = path / "cur"
        self._tmp = path / "tmp"
        self._lock = lock
        for name in _names(path / "new"):
            with suppress(TemporaryError):  # its name is taken in cur: it stays, a later name will not collide
                _move(path / "new" / name, self._cur / (name if ":" in name else f"{name}:2,"))
        sizes = Sizes(path)
        self._files: list[str] = []
        self._states: list[FileState] = []
        for name in sorted(_names(self._cur), key=_order):
            with suppress(FileNotFoundError):  # another program removed or renamed it: the next session sees that
                self._states.append(sizes.look(self._cur / name, _base(name)))
                self._files.append(name)
        sizes.save(path)
        self.octets: Sequence[int] = [state.octets for state in self._states]
        self.total = sum(self.octets)
        self._uids = _unique_ids(self._files, [state.uidl for state in self._states])

    def uid(self, index: int) -> str:
        return self._uids[index]

    def content(self, number: int) -> Iterator[bytes]:
        with self._open(number) as file:
            if not self._states[number - 1].describes(os.fstat(file.fileno())):
                raise TemporaryError("4.3.0", f"{file.name} has changed since the session began")
            line_ends = LineEnds()
            while data := file.read(CHUNK):
                yield line_ends.feed(data)
            yield line_ends.finish()

    def several(self, first: int, count: int) -> list[bytes]:
        """Each is a file of its own: there is nothing to gain by reading them together but the pieces."""
        found: list[bytes] = []
        for number in range(first, min(first + count, len(self._files) + 1)):
            try:
                with self._open(number) as file:
                    message = file.read()
                    status = os.fstat(file.fileno())
            except (OSError, TemporaryError):
                break
            if not self._states[number - 1].describes(status):
                break
            found.append(whole(message))
        return found

    def older(self, moment: float) -> list[int]:
        """By the time in the files' names, which is that of delivery."""
        times = enumerate((_order(name)[0] for name in self._files), 1)
        return [number for number, time in times if 0 < time < moment]

    def commit(self, numbers: Sequence[int]) -> None:
        """Move the files to tmp, all or none, and only then remove them: until the last move all can be undone."""
        moved: list[tuple[Path, Path]] = []
        names = self._names_now()
        try:
            for number in numbers:
                if name := names.get(_base(self._files[number - 1])):  # else somebody else removed it
                    source, target = self._cur / name, self._tmp / name
                    source.rename(target)
                    moved.append((source, target))
            sync_directory(self._cur)
        except OSError:
            for source, target in moved:
                target.rename(source)
            raise
        for _, target in moved:
            target.unlink(missing_ok=True)

    def close(self) -> None:
        self._lock.release()

    def _open(self, number: int) -> BinaryIO:
        """Open a message's file; other programs rename it when its flags change. Raises TemporaryError."""
        name = self._files[number - 1]
        try:
            return (self._cur / name).open("rb")
        except FileNotFoundError:
            renamed = self._names_now().get(_base(name))
            if renamed is None:
                raise TemporaryError("4.3.0", f"{self._cur / name} is not there any more") from None
            return (self._cur / renamed).open("rb")

    def _names_now(self) -> dict[str, str]:
        """Return the file names of today by name without flags."""
        return {_base(name): name for name in _names(self._cur)}


def _names(directory: Path) -> list[str]:
    """List the messages of a directory: regular files whose names do not begin with a dot."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.name[0] != "." and entry.is_file(follow_symlinks=False)]


def _base(name: str) -> str:
    return name.partition(":")[0]


def _order(name: str) -> tuple[int, str]:
    """Sort by the time of delivery that a name begins with, then by name."""
    time = _TIME.match(name)
    return int(time[0]) if time else 0, name


def _move(source: Path, target: Path) -> None:
    if target.exists():
        raise TemporaryError("4.3.0", f"{target} exists")
    source.rename(target)


def _unique_ids(names: Sequence[str], imported: Sequence[str]) -> list[str]:
    """Return an id for each name: the imported one, or the name without its flags where that may be one, or a hash."""
    uids: list[str] = []
    seen = {_base(name) for name, uid in zip(names, imported, strict=True) if not uid}
    bases: set[str] = set()
    for name, uid in zip(names, imported, strict=True):
        if not uid or uid in seen:
            uid = _base(name)
            if not _UID.fullmatch(uid) or uid in bases:
                uid = "~" + hashlib.blake2b(os.fsencode(name if uid in bases else uid), digest_size=16).hexdigest()
            bases.add(uid)
        uids.append(uid)
    return uids
