"""The messages of a mailbox file as one session sees them: where they are, how large on the wire, and their octets."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stubmail.mbox import disk
from stubmail.mbox.content_hash import ContentHash, content_hash
from stubmail.mbox.errors import MboxError
from stubmail.mbox.format import ToWire, quoted, to_wire
from stubmail.mbox.scan import Index

CHUNK = 65536
REGION = 1 << 20  # octets of neighbours that are read at once, at most
MAX_FROM_LINE = 1000  # octets of it that from_line returns
FINE, COARSE = 100_000_000, 3_000_000_000  # nanoseconds, more than times of change are apart that file systems keep

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

    __slots__ = ("_index", "_path", "_seen", "_settled")

    def __init__(self, path: Path, index: Index, seen: Signature | None, settled: bool = False) -> None:
        """For Mbox, or from what was kept of another: ``seen`` is the file's signature before ``index`` was made.

        It is None when there was no file. ``settled``: see there.
        """
        self._path = path
        self._index = index
        self._seen = seen
        self._settled = settled

    @property
    def index(self) -> Index:
        """What is known of all messages, for those who keep it to make the same Snapshot again without reading."""
        return self._index

    @property
    def seen(self) -> Signature | None:
        """The file's signature at that time, None when there was no file."""
        return self._seen

    @property
    def settled(self) -> bool:
        """Whether the file, while it has the signature ``seen``, is as it was when ``index`` was made.

        Else its last change was so short before that one more might have left the same signature, and what is read
        is compared with its hash.
        """
        return self._settled

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
        """The hash (content_hash) of the stored content; identical twins have the same. O(1)."""
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
        with disk.failures(self._path), disk.closing(self._open()) as fd:
            self._verify(fd, index)
            wire = ToWire()
            held = b""
            for data in self._pieces(fd, index, extent, size):
                if ready := wire.feed(data):
                    if held:
                        yield held
                    held = ready
            if held := held + wire.finish():
                yield held

    def several(self, first: int, count: int) -> list[bytes]:
        """Return message ``first`` and those behind it, ``count`` at most, as chunks makes them, but each in one piece.

        It is for small ones: they are read all at once, and fewer are returned when they take more than REGION
        octets in the file. The first that is not there any more, or not as it was, ends the list: what then is wrong,
        ``chunks`` raises.
        """
        self._check(first)
        starts, bodies, ends = self._index.starts, self._index.bodies, self._index.ends
        last = min(first + count, len(self._index))
        while last > first and ends[last - 1] - starts[first] > REGION:
            last = first + (last - first) // 2
        if last == first:
            return []
        start, messages = starts[first], list[bytes]()
        with disk.failures(self._path), disk.closing(self._open()) as fd:
            region = disk.read(fd, ends[last - 1] - start, start)
            sure = self._settled and signature(fd) == self._seen
        if sure and (messages := self._neighbours(region, first, last)):
            return messages
        for at in range(first, last):
            content = region[bodies[at] - start : ends[at] - start]
            if not sure and not (region.startswith(b"From ", starts[at] - start) and self._is(at, content)):
                break
            messages.append(to_wire(content))
        return messages

    def _neighbours(self, region: bytes, first: int, last: int) -> list[bytes]:
        """Return messages ``first`` to ``last`` - 1 of their region of the file, or none where LF is not all to change.

        One pass over all of them takes half of the time.
        """
        messages: list[bytes] = []
        if b"\r" in region or not region.endswith(b"\n") or quoted(region):
            return messages
        index, wire, at = self._index, region.replace(b"\n", b"\r\n"), 0
        for number in range(first, last):
            if not wire.startswith(b"From ", at):
                return []
            at += index.bodies[number] - index.starts[number] + 1
            end = at + index.octets[number]
            messages.append(wire[at:end])
            at = end + 2 * (index.after(number) - index.ends[number])
        return messages

    def _pieces(self, fd: int, index: int, extent: Extent, size: int) -> Iterator[bytes]:
        """Yield the stored content in pieces; raises MboxError after the last one when it is not what it was."""
        content = None if self._settled else ContentHash()
        at = extent.body
        for data in disk.pieces(fd, extent.body, extent.end, size):
            if content is None and signature(fd) != self._seen:  # looked at after reading: until then nobody wrote
                content = _hash(fd, extent.body, at)
            if content is not None:
                content.feed(data)
            yield data
            at += len(data)
        if content is not None and content.finish() != self.digest(index):
            raise self._changed()

    def _is(self, index: int, content: bytes) -> bool:
        return content_hash(content) == self.digest(index)

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
        content = _hash(fd, extent.body, extent.end)
        if content.finish() != self.digest(index) or disk.read(fd, 5, extent.start) != b"From ":
            raise self._changed()

    def _changed(self) -> MboxError:
        return MboxError("4.3.0", f"mailbox {self._path} was changed by another program")


def signature(fd: int) -> Signature:
    """Return what changes with every change of an open file."""
    status = os.fstat(fd)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def settled(seen: Signature, now: float) -> bool:
    """Tell whether the last change of a file with this signature was long enough before ``now``, in Unix time.

    That is so when any later change shows in its times: those of ext4 and its like are some milliseconds apart, those
    of others, whole milliseconds, up to 2 seconds.
    """
    apart = FINE if all(moment % 1_000_000 for moment in seen[2:]) else COARSE
    return max(seen[2:]) + apart < now * 1e9


def _hash(fd: int, start: int, end: int) -> ContentHash:
    content = ContentHash()
    for data in disk.pieces(fd, start, end):
        content.feed(data)
    return content
