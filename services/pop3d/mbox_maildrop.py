"""Maildrops in an mbox file, shared with those who deliver to it (stubmail.mbox)."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services.pop3d.from_lines import LENGTH, delivered
from services.pop3d.index_cache import IndexCache
from services.pop3d.index_file import IndexFile
from services.pop3d.index_format import Record, without
from services.pop3d.lock import SessionLock
from services.pop3d.uidl import assign, format_uid, remember
from stubmail.errors import PermanentError
from stubmail.mbox import Mbox, NoRoom, NotMbox, Snapshot
from stubmail.mbox.scan import HEAD, begins_like_mbox
from stubmail.mbox.snapshot import Signature

LOCK_SUFFIX = ".stub-session"
LOCK_SECONDS = 10.0  # to wait for a delivery to end
NO_FILE: Signature = (0, 0, 0, 0)  # no file looks like this


@dataclass(frozen=True, slots=True)
class MboxLocation:
    """An mbox file; none there is an empty maildrop."""

    path: Path
    cache: IndexCache | None = None

    def open(self) -> "MboxMaildrop":
        """Lock it for this session, not for deliveries, and look at what is there."""
        self._check_place()
        lock = SessionLock(Path(f"{self.path}{LOCK_SUFFIX}"))
        try:
            return MboxMaildrop(self.path, lock, self.cache)
        except NotMbox as error:
            lock.release()
            raise PermanentError("5.3.5", error.text) from error  # it takes a person to mend that
        except BaseException:
            lock.release()
            raise

    def check(self) -> None:
        """Raise PermanentError unless an mbox, or nothing yet, is there to be read and written."""
        self._check_place()
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            if not begins_like_mbox(file.read(HEAD)):
                raise PermanentError("5.3.5", f"{self.path} is no mbox: it does not begin with a From line")

    def _check_place(self) -> None:
        """Look at what can be seen without opening the file; files are made beside it (locks, journals)."""
        if not self.path.parent.is_dir():
            raise PermanentError("5.3.5", f"{self.path.parent} is not a directory")
        if not os.access(self.path.parent, os.R_OK | os.W_OK | os.X_OK):
            raise PermanentError("5.3.5", f"{self.path.parent} cannot be read and written")
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(self.path.lstat().st_mode):
                raise PermanentError("5.3.5", f"{self.path} is no mbox: it is not a regular file")
            if not os.access(self.path, os.R_OK | os.W_OK):
                raise PermanentError("5.3.5", f"{self.path} cannot be read and written")


class MboxMaildrop:
    """An open mbox; see services.pop3d.maildrop.Maildrop. Kept small: most sessions wait for their client."""

    __slots__ = ("_cache", "_lock", "_path", "_record", "_snapshot")

    def __init__(self, path: Path, lock: SessionLock, cache: IndexCache | None) -> None:
        self._path = str(path)
        self._lock = lock
        self._cache = cache
        file = self._file
        record = file.load()
        self._record = record if record is not None and file.fits(record) else self._read(file, record)
        self._snapshot: Snapshot | None = None  # made when a message is asked for

    @property
    def octets(self) -> Sequence[int]:
        return self._record.index.octets

    @property
    def total(self) -> int:
        return self._record.total

    def uid(self, index: int) -> str:
        record = self._record
        return format_uid(record.hash(index), record.numbers.get(index, 1), record.imported(index))

    def content(self, number: int) -> Iterator[bytes]:
        return self._messages.chunks(number - 1)

    def several(self, first: int, count: int) -> list[bytes]:
        return self._messages.several(first - 1, count)

    @property
    def _messages(self) -> Snapshot:
        if self._snapshot is None:
            record = self._record
            self._snapshot = Snapshot(Path(self._path), record.index, record.seen, record.settled)
        return self._snapshot

    @property
    def _mbox(self) -> Mbox:
        return Mbox(Path(self._path), LOCK_SECONDS, owner="pop3d")

    @property
    def _file(self) -> IndexFile:
        return IndexFile(Path(self._path), self._cache)

    def older(self, moment: float) -> list[int]:
        """By the dates in the ``From `` lines; what others have changed since is noticed when it is to be removed."""
        index, found = self._record.index, []
        if not len(index):
            return []
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb"):
            for at in range(len(index)):
                line = os.pread(descriptor, min(index.bodies[at] - index.starts[at], LENGTH), index.starts[at])
                time = delivered(line)
                if time is not None and time < moment:
                    found.append(at + 1)
        return found

    def commit(self, numbers: Sequence[int]) -> int:
        gone = {number - 1 for number in numbers}
        file = self._file
        try:
            changed = self._mbox.remove(self._messages, gone, spare=file.path).changed
        except NoRoom:
            file.save(self._record)
            raise
        memory = remember(self._record.hashes(), self._record.numbers, gone, file.memory(self._record))
        file.save(self._rest(gone, file.keep_memory(memory)))
        return changed

    def close(self) -> None:
        self._lock.release()

    def _read(self, file: IndexFile, old: Record | None) -> Record:
        """Read the mbox, give its messages their ids, and keep what was found."""
        snapshot = self._mbox.snapshot()
        if snapshot.seen is None:
            return Record(NO_FILE, snapshot.index, {}, b"")
        record = Record(snapshot.seen, snapshot.index, {}, b"")
        numbers, memory = assign(record.hashes(), file.memory(old))
        packed = file.keep_memory(memory)
        seen = self._signature(snapshot.seen)
        record = Record(seen, snapshot.index, numbers, packed, snapshot.settled and seen == snapshot.seen)
        file.save(record)
        return record

    def _signature(self, seen: Signature) -> Signature:
        """Return ``seen`` with today's time of change, if that is all that is different: we may have changed it."""
        with suppress(OSError):
            status = os.lstat(self._path)
            if (status.st_ino, status.st_size, status.st_mtime_ns) == seen[:3]:
                return (*seen[:3], status.st_ctime_ns)
        return seen

    def _rest(self, gone: set[int], memory: bytes) -> Record:
        """Return the record of what is left after a removal.

        When the mbox is not exactly that, because mail came meanwhile, or another program removed some, only the memory
        in it is of use: the next session reads the mbox.
        """
        index = without(self._record.index, gone)
        left = [at for at in range(len(self._record.index)) if at not in gone]
        numbers = {new: self._record.numbers[old] for new, old in enumerate(left) if old in self._record.numbers}
        seen = NO_FILE
        with suppress(OSError):
            status = os.lstat(self._path)
            if (status.st_ino, status.st_size) == (self._record.seen[0], index.size):
                seen = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return Record(seen, index, numbers, memory)
