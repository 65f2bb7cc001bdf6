"""Maildrops in the Maildir format: one file a message, whose name is its unique-id (cr.yp.to/proto/maildir.html)."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from services.pop3d.index_cache import IndexCache
from services.pop3d.lock import SessionLock
from services.pop3d.maildir_moves import move, move_away, remove, take_in
from services.pop3d.maildir_names import base_of, messages_in, order
from services.pop3d.maildir_sizes import Sizes
from stubmail.errors import PermanentError, TemporaryError
from stubmail.line_ends import LineEnds, whole
from stubmail.mbox.disk import closing, is_full
from stubmail.mbox.snapshot import signature
from stubmail.spool import sync_directory

CHUNK = 65_536
LOCK = ".pop3d-lock"
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class MaildirLocation:
    """A directory with ``new``, ``cur`` and ``tmp`` in it."""

    path: Path
    cache: IndexCache | None = None

    def open(self) -> "Maildir":
        """Lock it for this session, move what is new to cur, and look at what is there."""
        self.check()
        lock = SessionLock(self.path / LOCK)
        try:
            return Maildir(self.path, lock, self.cache)
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
            for name in messages_in(self.path / "cur"):
                move(self.path / "cur" / name, self.path / "new" / base_of(name))
            Sizes(self.path).forget()
        finally:
            lock.release()


class Maildir:
    """An open Maildir; see services.pop3d.maildrop.Maildrop."""

    __slots__ = ("_as_listed", "_cache", "_changed", "_listing", "_lock", "_path", "_uids")

    def __init__(self, path: Path, lock: SessionLock, cache: IndexCache | None) -> None:
        self._path = str(path)
        self._lock = lock
        self._cache = cache
        take_in(path)
        self._listing = Sizes(path, cache).listing()
        self._uids = self._listing.uids
        self._as_listed = self._listing.settled  # as far as is known
        self._changed = False

    @property
    def octets(self) -> Sequence[int]:
        return self._listing.octets

    @property
    def total(self) -> int:
        return self._listing.total

    def uid(self, index: int) -> str:
        return self._uids[index]

    def content(self, number: int) -> Iterator[bytes]:
        with closing(self._open(number)) as file:
            if not self._is_as_it_was(number, file):
                raise TemporaryError("4.3.0", f"{self._name(number)} has changed since the session began")
            line_ends = LineEnds()
            while data := os.read(file, CHUNK):
                yield line_ends.feed(data)
            yield line_ends.finish()

    def several(self, first: int, count: int) -> list[bytes]:
        """Each is a file of its own; what is saved is the way to the directory, and care for what is large.

        Nor is each file looked at while the directory is as it was listed: no file was put in another's place then, and
        one of the same length that was written to is sent as it is now.
        """
        listing, every = self._listing, slice(first - 1, first - 1 + count)
        with closing(os.open(self._cur, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as cur:
            if self._as_listed:
                found = _read(cur, listing.names[every], listing.sizes[every])
                self._as_listed = signature(cur) == listing.seen  # until here
                if self._as_listed:
                    return found
            return self._read_with_care(cur, first, len(listing.names[every]))

    def _read_with_care(self, cur: int, first: int, count: int) -> list[bytes]:
        found, today = list[bytes](), dict[str, str]()
        with suppress(OSError, TemporaryError):
            for number in range(first, first + count):
                with closing(self._open(number, cur, today)) as file:
                    message = os.pread(file, self._listing.sizes[number - 1], 0)
                    if not self._is_as_it_was(number, file):
                        break
                found.append(whole(message))
        return found

    def older(self, moment: float) -> list[int]:
        """By the time in the files' names, which is that of delivery."""
        times = enumerate((order(name)[0] for name in self._listing.names), 1)
        return [number for number, time in times if 0 < time < moment]

    def commit(self, numbers: Sequence[int]) -> int:
        """Move the files to tmp, all or none, and only then remove them: until the last move all can be undone.

        On a full disk tmp may have no room for their names: then they are removed one by one.
        """
        cur, names = Path(self._cur), self._names_now()
        files = []
        for number in numbers:
            name = names.get(self._listing.names[number - 1])
            if name and self._may_remove(number, cur / name):  # else somebody else removed it
                files.append(cur / name)
        try:
            moved = move_away(files, Path(self._path, "tmp"))
        except OSError as error:
            if not is_full(error):
                raise
            remove(files)
            sync_directory(cur)
        else:
            remove(moved)
        return 0  # a file that is not the message any more is another's

    def close(self) -> None:
        if self._changed:  # as the directory does not tell: the next session is to look at every file
            self._changed = False
            Sizes(Path(self._path), self._cache).save(replace(self._listing, settled=False))
        self._lock.release()

    @property
    def _cur(self) -> str:
        return f"{self._path}/cur"

    def _is_as_it_was(self, number: int, file: int) -> bool:
        same = self._listing.is_as_it_was(number - 1, os.fstat(file))
        self._changed = self._changed or not same
        return same

    def _name(self, number: int) -> str:
        return f"{self._cur}/{self._listing.names[number - 1]}"

    def _open(self, number: int, cur: int | None = None, today: dict[str, str] | None = None) -> int:
        """Open a message's file; other programs rename it when its flags change. Raises TemporaryError, OSError.

        ``cur``: that directory, if it is open. ``today``: what ``_names_now`` said, or nothing until it is needed; many
        messages that another program has marked as read are looked for once.
        """
        try:
            if cur is not None:
                return os.open(self._listing.names[number - 1], _FLAGS, dir_fd=cur)
            return os.open(self._name(number), _FLAGS)
        except FileNotFoundError:
            names = today or self._names_now()
            if today is not None:
                today.update(names)
            renamed = names.get(self._listing.names[number - 1])
            if renamed is None:
                raise TemporaryError("4.3.0", f"{self._name(number)} is not there any more") from None
            return os.open(f"{self._cur}/{renamed}", _FLAGS)

    def _names_now(self) -> dict[str, str]:
        """Return the file names of today by those of the listing, for the messages that are still there.

        Several files may have one name but for flags: none that is in the listing is taken for another.
        """
        present, listed = set(messages_in(Path(self._cur))), self._listing.names
        names = {name: name for name in listed if name in present}
        others = {base_of(name): name for name in present.difference(names)}
        names.update((name, others[base_of(name)]) for name in listed if name not in names and base_of(name) in others)
        return names

    def _may_remove(self, number: int, path: Path) -> bool:
        """Tell whether a file is the message, as one with other flags is if nothing else about it is different."""
        return path.name == self._listing.names[number - 1] or self._listing.is_as_it_was(number - 1, path.lstat())


def _read(cur: int, names: Sequence[str], sizes: Sequence[int]) -> list[bytes]:
    """Return the messages in these files of the directory ``cur``, up to the first that is not of its size."""
    found: list[bytes] = []
    with suppress(OSError):
        for name, size in zip(names, sizes, strict=True):
            file = os.open(name, _FLAGS, dir_fd=cur)
            try:
                content = os.read(file, size + 1)
            finally:
                os.close(file)
            if len(content) != size:
                break
            found.append(whole(content))
    return found
