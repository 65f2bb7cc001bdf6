"""The queue's files: every change to one of them is a method here, durable when it returns unless it says otherwise."""

import fcntl
import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, get_args

from stubmail.errors import Exit
from stubmail.queue.bell import ring
from stubmail.queue.item import MAX_FIRST_LINE, QUEUE_ID, Item, ItemError, parse_envelope, parse_first_line
from stubmail.queue.progress import Progress
from stubmail.spool import clean_temporary, remove_durably, sync_directory, write_durably

DEFAULT_SPOOL = Path("/var/spool/smtp2stub")
PIECE = 2**20  # octets copied at once

Order = Literal["hold", "retry", "drop"]
ORDERS: tuple[Order, ...] = get_args(Order)

_DAMAGED = ".damaged"
_FLOCK = "hhqqi0q"  # struct flock: type, whence, start, length, pid
_ORDER_FILE = re.compile(rf"({QUEUE_ID.pattern})\.({'|'.join(ORDERS)})")


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a file: its envelope, where its octets begin, and whether it is the only one in the file."""

    item: Item
    path: Path
    offset: int
    alone: bool = True

    def content(self) -> bytes:
        """Read the message. Raises OSError when it is not there any more, ItemError when it is shorter than it was."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.item.size)
        if len(data) != self.item.size:
            raise ItemError(f"{self.path} is cut short")
        return data

    def header(self, most: int) -> bytes:
        """Read the message's first octets, at most ``most``."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(min(most, self.item.size))

    def record(self) -> Iterator[bytes]:
        """Yield the whole record in pieces."""
        yield self.item.head_to_wire()
        left = self.item.size
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while left:
                piece = file.read(min(PIECE, left))
                if not piece:
                    raise ItemError(f"{self.path} is cut short")
                left -= len(piece)
                yield piece


class Queue:
    """The queue in the spool directory ``root``; see the package's docstring for the files and who may write them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bell_path = root / "bell"
        self.incoming = root / "incoming"
        self._queue = root / "queue"
        self._orders = root / "orders"

    def create(self) -> None:
        """Make the directories that are missing. Raises OSError."""
        for directory in (self.root, self.incoming, self._queue, self._orders):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lock(self, role: str) -> IO[bytes]:
        """Become the one process in this role until the returned file is closed. Raises Exit when there is another."""
        file = (self.root / f"{role}.lock").open("ab")
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
        except BlockingIOError:
            file.close()
            raise Exit(os.EX_UNAVAILABLE, f"another {role} works on {self.root}") from None
        os.utime(file.fileno())  # when it began
        return file

    def since(self, role: str) -> float | None:
        """Return when the process in this role began, in Unix time; None when there is none. Takes no lock itself."""
        try:
            with (self.root / f"{role}.lock").open("rb") as file:
                found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
                began = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        return None if struct.unpack(_FLOCK, found)[0] == fcntl.F_UNLCK else began

    # The receiver

    def clean_incoming(self) -> None:
        """Remove what a receiver that died left unfinished; only for the one that holds its lock."""
        clean_temporary(self.incoming)

    def accept(self, name: str, records: Iterable[bytes]) -> None:
        """Add a file of records to ``incoming``: when this returns, their messages are accepted. Raises OSError."""
        write_durably(self.incoming / name, records)

    # The courier

    def clean(self) -> None:
        """Remove what a courier that died left behind; only for the one that holds its lock."""
        clean_temporary(self._queue)
        clean_temporary(self._orders)
        present = set(self.filed())
        for path in self._queue.iterdir():
            if path.suffix in (".json", ".told") and path.stem not in present:
                path.unlink(missing_ok=True)
        if orders := self.orders():  # for a message that went away while they were given
            present.update(stored.item.id for stored in self.messages())
            for queue_id, order in orders:
                if queue_id not in present:
                    self.obey(queue_id, order)

    def arrivals(self) -> list[str]:
        """Return the names of the files in ``incoming``, oldest first."""
        return sorted(name for name in _names(self.incoming) if QUEUE_ID.fullmatch(name))

    def arrived(self, name: str) -> list[Stored]:
        """Return the messages in one file of ``incoming``. Raises FileNotFoundError, or ItemError if it is damaged."""
        return _records(self.incoming / name)

    def count(self, name: str) -> int:
        """Return how many messages are in one file of ``incoming``. Raises as ``arrived``."""
        return sum(1 for _ in _heads(self.incoming / name))

    def set_aside(self, name: str) -> None:
        """Rename a damaged file in ``incoming`` so that nobody works on it and a person can look at it."""
        (self.incoming / name).rename(self.incoming / (name + _DAMAGED))
        sync_directory(self.incoming)

    def remove_arrival(self, name: str, *, durably: bool) -> None:
        """Remove a file of ``incoming`` whose messages are all gone or filed.

        Without ``durably`` a crash may bring it back, which is harmless when all went out as posts.
        """
        if durably:
            remove_durably(self.incoming / name)
        else:
            (self.incoming / name).unlink(missing_ok=True)

    def file(self, stored: Stored) -> Stored:
        """Give a message from ``incoming`` a file of its own; its progress is kept from then on."""
        path = self._mail(stored.item.id)
        if not stored.alone:
            write_durably(path, stored.record())
        elif not path.exists():
            os.link(stored.path, path)
            sync_directory(self._queue)
        return Stored(stored.item, path, len(stored.item.head_to_wire()))

    def filed(self) -> list[str]:
        """Return the ids of the filed messages, oldest first."""
        return sorted(name[:-5] for name in _names(self._queue) if name.endswith(".mail"))

    def find(self, queue_id: str) -> Stored | None:
        """Return a filed message; None when there is none of that id. Raises ItemError when it is damaged."""
        try:
            return _records(self._mail(queue_id))[0]
        except FileNotFoundError:
            return None

    def progress(self, item: Item) -> Progress:
        """Return what became of a message so far. Raises ItemError when that is unreadable."""
        try:
            data = (self._queue / f"{item.id}.json").read_bytes()
        except FileNotFoundError:
            return Progress.fresh(len(item.recipients))
        return Progress.from_wire(data, len(item.recipients))

    def save(self, queue_id: str, progress: Progress) -> None:
        """Record a filed message's progress."""
        write_durably(self._queue / f"{queue_id}.json", progress.to_wire())

    def told(self, queue_id: str) -> int:
        """Return the number of the last notice about a message that reached its sender; 0 for none."""
        try:
            return int((self._queue / f"{queue_id}.told").read_bytes())
        except (FileNotFoundError, ValueError):
            return 0

    def tell(self, queue_id: str, notice: int) -> None:
        """Record that a notice reached the sender; nothing happens when the message is gone."""
        if self._mail(queue_id).exists() and notice > self.told(queue_id):
            write_durably(self._queue / f"{queue_id}.told", b"%d" % notice)

    def finish(self, queue_id: str) -> None:
        """Remove a filed message for good, and all that is known of it."""
        remove_durably(self._mail(queue_id))
        for suffix in ("json", "told"):
            (self._queue / f"{queue_id}.{suffix}").unlink(missing_ok=True)
        for order in ORDERS:
            self.obey(queue_id, order)

    # Anybody

    def messages(self) -> list[Stored]:
        """Return all messages, oldest first, each once; damaged ones are passed over."""
        found: dict[str, Stored] = {}
        for name in self.arrivals():  # before the filed ones: a message may go that way meanwhile, never back
            with suppress(FileNotFoundError, ItemError):
                found.update((stored.item.id, stored) for stored in self.arrived(name))
        for queue_id in self.filed():
            with suppress(ItemError):
                if (stored := self.find(queue_id)) is not None:
                    found[queue_id] = stored
        return [found[queue_id] for queue_id in sorted(found)]

    def damaged(self) -> list[Path]:
        """Return the files that were set aside."""
        return sorted(self.incoming / name for name in _names(self.incoming) if name.endswith(_DAMAGED))

    def orders(self) -> list[tuple[str, Order]]:
        """Return the orders that stand, as (queue id, order)."""
        matches = map(_ORDER_FILE.fullmatch, _names(self._orders))
        return [(match[1], order) for match in matches if match for order in ORDERS if order == match[2]]

    def order(self, queue_id: str, order: Order) -> None:
        """Give an order; it stands until the courier has obeyed it. Ring afterwards."""
        write_durably(self._orders / f"{queue_id}.{order}", b"")

    def obey(self, queue_id: str, order: Order) -> None:
        """Take an order back, or mark it as obeyed."""
        (self._orders / f"{queue_id}.{order}").unlink(missing_ok=True)

    def ring(self) -> bool:
        """Tell the courier to look now; False when there is none."""
        return ring(self.bell_path)

    def _mail(self, queue_id: str) -> Path:
        return self._queue / f"{queue_id}.mail"


def _flock(kind: int) -> bytes:
    """The whole file, as a lock of the open file (fcntl(2)): unlike flock(2), one can ask who has it."""
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _names(directory: Path) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def _records(path: Path) -> list[Stored]:
    """Read all envelopes in a file of records; the messages between them are skipped."""
    found = [(parse_envelope(envelope, size), offset) for envelope, size, offset in _heads(path)]
    return [Stored(item, path, offset, len(found) == 1) for item, offset in found]


def _heads(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Yield, of each record in a file, the envelope, the message's size and its offset."""
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end or not at:
            file.seek(at)
            first, envelope, size = parse_first_line(file.read(MAX_FIRST_LINE))
            file.seek(at + first)
            yield file.read(envelope), size, at + first + envelope
            at += first + envelope + size
        if at > end:
            raise ItemError(f"{path} is cut short")
