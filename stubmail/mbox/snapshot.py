"""The messages of a mailbox file as one session sees them: where they are, how large on the wire, and their octets."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stubmail.mbox import disk
from stubmail.mbox.errors import MboxError
from stubmail.mbox.format import ToWire, to_wire
from stubmail.mbox.scan import ContentHash, Index, content_hash

CHUNK = 65536
MAX_FROM_LINE = 1000  # octets of it that from_line returns

Signature = tuple[int, int, int, int]  # inode, size, time of modification and of change, the latter not to be forged


@dataclass(frozen=True, slots=True)
class Extent:
    """Where one message lies, as offsets in the file: its ``From `` line, the octet behind that line, its end.

    The empty line that separates it from the next message is not part of it.
    """

    start: int
    body: int
    end: int


class Snapshot:
    """A frozen view of the messages that were in the file when it was taken; it holds no lock and no open file.

    Messages are counted from 0 (POP3's number less one); any other number raises IndexError. A message costs about
    64 octets of memory.
    """

    def __init__(self, path: Path, index: Index, seen: Signature | None) -> None:
        """For Mbox, or from what was kept of another: ``seen`` is the file's signature before ``index`` was made.

        It is None when there was no file.
        """
        self._path = path
        self._index = index
        self._seen = seen

    @property
    def index(self) -> Index:
        """What is known of all messages, for those who keep it to make the same Snapshot again without reading."""
        return self._index

    @property
    def seen(self) -> Signature | None:
        """The file's signature at that time, None when there was no file."""
        return self._seen

    @property
    def size(self) -> int:
        """The file's length in octets at that time."""
        return self._index.size

    def __len__(self) -> int:
        """How many messages there are."""
        return len(self._index)

    def extent(self, index: int) -> Extent:
        """Where message ``index`` lies in the file."""
        self._check(index)
        return Extent(self._index.starts[index], self._index.bodies[index], self._index.ends[index])

    @property
    def extents(self) -> list[Extent]:
        """All extents, made on the spot from compact arrays; prefer ``extent`` in loops over large mailboxes."""
        return [self.extent(index) for index in range(len(self))]

    def octets(self, index: int) -> int:
        """Exactly how many octets ``chunks(index)`` yields in all. O(1)."""
        self._check(index)
        return self._index.octets[index]

    def digest(self, index: int) -> bytes:
        """A hash (32 octets) of the stored content without its ``From `` line; identical twins have the same. O(1)."""
        self._check(index)
        return self._index.digest(index)

    def from_line(self, index: int) -> bytes:
        """The message's ``From `` line without its line end, at most 1000 octets. Raises MboxError as chunks does."""
        extent = self.extent(index)
        with disk.failures(self._path), disk.closing(self._open()) as fd:
            self._verify(fd, index)
            return disk.read(fd, min(extent.body - extent.start, MAX_FROM_LINE), extent.start).rstrip(b"\r\n")

    def chunks(self, index: int, size: int = CHUNK) -> Iterator[bytes]:
        """Yield the message as it goes over the wire, but not dot-stuffed: every line ends in CRLF, the last too.

        No chunk is empty or longer than about twice ``size`` octets; a chunk may end inside a line or a CRLF.
        Raises MboxError before the last chunk when the file has shrunk, was replaced, or holds other octets than
        when the snapshot was taken: whoever has already sent a part must break off, not end the message.
        """
        extent = self.extent(index)
        if extent.end - extent.body <= size:
            if whole := self._whole(index, extent):
                yield whole
            return
        with disk.failures(self._path), disk.closing(self._open()) as fd:
            self._verify(fd, index)
            wire, content = ToWire(), ContentHash()
            held = b""
            for data in disk.pieces(fd, extent.body, extent.end, size):
                content.feed(data)
                if ready := wire.feed(data):
                    if held:
                        yield held
                    held = ready
            held += wire.finish()
            if content.finish() != self.digest(index):
                raise self._changed()
            if held:
                yield held

    def _whole(self, index: int, extent: Extent) -> bytes:
        """Return a small message at once, which is most of what there is to save in time. Raises as chunks does."""
        with disk.failures(self._path):
            fd = self._open()
            try:
                moved = signature(fd) != self._seen and disk.read(fd, 5, extent.start) != b"From "
                content = disk.read(fd, extent.end - extent.body, extent.body)
            finally:
                os.close(fd)
        if moved or content_hash(content) != self.digest(index):
            raise self._changed()
        return to_wire(content)

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self._index):
            raise IndexError("no such message in the snapshot")

    def _open(self) -> int:
        try:
            fd = disk.open_file(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise self._changed() from None
        if self._seen is None or os.fstat(fd).st_ino != self._seen[0]:
            os.close(fd)
            raise self._changed()
        return fd

    def _verify(self, fd: int, index: int) -> None:
        """Look at the message before any of it goes out, in case that others have written to the file since."""
        if signature(fd) == self._seen:
            return
        extent = self.extent(index)
        content = ContentHash()
        for data in disk.pieces(fd, extent.body, extent.end):
            content.feed(data)
        if content.finish() != self.digest(index) or disk.read(fd, 5, extent.start) != b"From ":
            raise self._changed()

    def _changed(self) -> MboxError:
        return MboxError("4.3.0", f"mailbox {self._path} was changed by another program")

    def still_in(self, now: Index, wanted: Sequence[int]) -> list[int]:
        """Return which messages of a later Index of the same mailbox are the ``wanted`` ones of this (both ascending).

        What is not there any more is passed over. When some of several identical ones are gone, they are taken to
        be among the wanted, so that never more go than were wanted.
        """
        before = self._index
        if now.digests.startswith(before.digests):
            return list(wanted)
        digests = {before.digest(index) for index in wanted}
        old, new = _places(before, digests), _places(now, digests)
        chosen = set(wanted)
        found = []
        for digest in digests:
            ranks = [rank for rank, index in enumerate(old[digest]) if index in chosen]
            gone = max(0, len(old[digest]) - len(new[digest]))
            found += [new[digest][rank - gone] for rank in ranks[gone:]]
        return sorted(found)


def _places(index: Index, digests: set[bytes]) -> dict[bytes, list[int]]:
    """Where in ``index`` the messages with these digests are."""
    places = defaultdict(list)
    for number in range(len(index)):
        if (digest := index.digest(number)) in digests:
            places[digest].append(number)
    return places


def signature(fd: int) -> Signature:
    """Return what changes with every change of an open file."""
    status = os.fstat(fd)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
