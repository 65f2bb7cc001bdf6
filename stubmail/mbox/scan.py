"""Where the messages of an mbox begin and end, how large they are on the wire and what they hash to; octets in only.

A ``From `` line begins a message at the start of the file and behind an empty line, nowhere else: what legacy programs
store unquoted in the middle of a paragraph stays in its message. What follows ``From `` is not looked at, for its form
differs between programs. Empty lines before the first message belong to none. Lines end in LF; an empty one
may hold a CR. The empty line before a ``From `` line, or one at the end of the file, belongs to no message.
"""

import re
from array import array
from hashlib import sha256

from stubmail.mbox.content_hash import DIGEST_SIZE, ContentHash, content_hash, has_notes
from stubmail.mbox.errors import NotMbox
from stubmail.mbox.format import WireLength, quoted, wire_length

LONG = 262_144  # octets; a message of more is not held in memory whole

_SEPARATOR = re.compile(rb"\n\r?\nFrom ")
_EMPTY_LINES = re.compile(rb"(?:\r?\n){1,1000}")  # no more at once: each costs memory while it may be given back
HEAD = 8192  # octets of a message in which an X-UIDL field is looked for
_UIDL = re.compile(rb"(?<=\nX-UIDL:)[ \t]*([\x21-\x7e]{1,70})[ \t]*\r?\n")
_EMPTY = re.compile(rb"^\r?\n", re.MULTILINE)
_HOLD = 7  # of a separator so many octets may have come and nothing be certain


class Index:
    """What is known of each message, 52 octets and a few in compact arrays; messages count from 0."""

    __slots__ = ("bodies", "digests", "ends", "octets", "size", "starts", "uidls")

    def __init__(self) -> None:
        self.starts = array("Q")
        self.bodies = array("Q")
        self.ends = array("Q")
        self.octets = array("Q")
        self.digests = bytearray()
        self.uidls: dict[int, str] = {}
        """The unique-ids in X-UIDL fields, by which other programs kept them; nobody has made sure that they differ."""
        self.size = 0

    def __len__(self) -> int:
        return len(self.starts)

    def digest(self, index: int) -> bytes:
        """The hash of message ``index`` (content_hash): its first half stays when programs keep notes in the header."""
        return bytes(self.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE])

    def after(self, index: int) -> int:
        """The offset behind message ``index`` and its empty line: where the next one begins, or the file ends."""
        return self.starts[index + 1] if index + 1 < len(self.starts) else self.size


def find_uidl(content: bytes) -> str:
    """Return what an X-UIDL field says in a message that begins so; an empty text when there is none.

    HEAD octets of the message are enough.
    """
    if content.find(b"X-UIDL:", 0, HEAD) < 0:
        return ""
    head = content[:HEAD]
    at = 0 if head.startswith(b"X-UIDL:") else head.find(b"\nX-UIDL:") + 1
    if head[at : at + 7] != b"X-UIDL:":
        return ""
    if len(head) < HEAD:  # a later delivery completes the last line
        head += b"\n"
    match = _UIDL.match(b"\n" + head, at + 8)
    if match is None or _EMPTY.search(head, 0, at):  # in the body it is anybody's text
        return ""
    return match[1].decode()


def _skip_empty_lines(data: bytes, at: int) -> int:
    while empty := _EMPTY_LINES.match(data, at):
        at = empty.end()
    return at


def begins_like_mbox(head: bytes) -> bool:
    """Whether a file that begins so may be an mbox: a ``From `` line behind empty lines at most, or nothing yet."""
    at = _skip_empty_lines(head, 0)
    return at == len(head) or head.startswith(b"From ", at)


def separator(tail: bytes) -> bytes:
    """Return what must be appended to a file that ends in ``tail`` (3 octets suffice) before a ``From `` line."""
    if not tail or tail.endswith((b"\n\n", b"\n\r\n")):
        return b""
    return b"\n" if tail.endswith(b"\n") else b"\n\n"


class Scanner:
    """Reads a file, fed in any pieces, into an Index; memory is that of the Index and of a few pieces."""

    def __init__(self) -> None:
        self._index = Index()
        self._buffer = b""  # what has not been dealt with; after _leading it begins with a From_ line, unless _long
        self._offset = 0  # of the buffer's first octet in the file
        self._leading = True
        self._long: _LongMessage | None = None

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises NotMbox when the file does not begin with a ``From `` line."""
        self._buffer += data
        if self._leading:
            self._skip_leading()
        if self._long is not None:
            self._go_on(self._long)
        if self._long is None and not self._leading:
            self._take_whole()

    def finish(self) -> Index:
        """Return what was found. Raises NotMbox as feed does."""
        buffer, size = self._buffer, self._offset + len(self._buffer)
        if self._long is not None:
            self._long.end(self._index, buffer, self._offset, len(buffer) - _last_empty_line(buffer))
        elif not self._leading:
            _read_messages(self._index, buffer[: len(buffer) - _last_empty_line(buffer)], self._offset)
        elif buffer:
            raise _no_from_line()
        self._index.size = size
        return self._index

    def _skip_leading(self) -> None:
        self._drop(_skip_empty_lines(self._buffer, 0))
        word = self._buffer[:5]
        if not b"From ".startswith(word) and word != b"\r":
            raise _no_from_line()
        self._leading = len(word) < 5

    def _take_whole(self) -> None:
        """Read the messages behind which another begins; what is left is small, or a long message."""
        end, start = _last_separator(self._buffer)
        if start:
            _read_messages(self._index, self._buffer[:end], self._offset)
            self._drop(start)
        if len(self._buffer) > LONG:
            self._long = _LongMessage(self._index, self._offset)
            self._go_on(self._long)

    def _go_on(self, message: "_LongMessage") -> None:
        used, next_start = message.feed(self._index, self._buffer, self._offset)
        self._drop(used)
        if next_start:
            self._long = None

    def _drop(self, octets: int) -> None:
        self._buffer = self._buffer[octets:]
        self._offset += octets


class _LongMessage:
    """One that is not held in memory whole."""

    def __init__(self, index: Index, start: int) -> None:
        index.starts.append(start)
        self._body = False  # whether it has been reached; then the buffer begins with the last octet not taken
        self._skip = 0  # octets of the buffer that are not content: the LF of the From_ line
        self._length, self._hash, self._head = WireLength(), ContentHash(), b""

    def feed(self, index: Index, buffer: bytes, offset: int) -> tuple[int, bool]:
        """Take what is certain; returns how many octets are dealt with, and whether the next message begins there."""
        if not self._body:
            line_end = buffer.find(b"\n")
            if line_end < 0:
                return len(buffer), False
            self._body, self._skip = True, 1
            index.bodies.append(offset + line_end + 1)
            used, ended = self.feed(index, buffer[line_end:], offset + line_end)
            return line_end + used, ended
        found = _SEPARATOR.search(buffer) if buffer.rfind(b"\nFrom ") >= 0 else None
        if found:
            self.end(index, buffer, offset, found.start() + 1)
            return found.end() - 5, True
        settled = len(buffer) - _HOLD
        if settled <= self._skip:
            return 0, False
        self._take(buffer[self._skip : settled])
        self._skip = 0
        return settled, False

    def end(self, index: Index, buffer: bytes, offset: int, end: int) -> None:
        """Take the rest, up to offset ``end`` in the buffer."""
        if not self._body:
            index.bodies.append(offset + end)
            self._skip = end
        self._take(buffer[self._skip : end])
        index.ends.append(offset + end)
        index.octets.append(self._length.finish())
        index.digests += self._hash.finish()
        if uidl := find_uidl(self._head):
            index.uidls[len(index) - 1] = uidl

    def _take(self, content: bytes) -> None:
        if len(self._head) < HEAD:
            self._head += content[: HEAD - len(self._head)]
        self._length.feed(content)
        self._hash.feed(content)


def _read_messages(index: Index, region: bytes, offset: int) -> None:
    """Add the messages of a region of the file that begins with a ``From `` line and ends with a message's content.

    Most mail has nothing in it that makes a line longer or shorter than by its CR; that is found out for all at once.
    """
    starts, ends = _places(region)
    bodies = [region.find(b"\n", start, end) + 1 or end for start, end in zip(starts, ends, strict=True)]
    contents = list(zip(bodies, ends, strict=True))
    if not region.endswith(b"\n") or b"\r" in region or quoted(region):
        index.octets.extend([wire_length(region[body:end]) for body, end in contents])
        headers, digests = region, [content_hash(region[body:end]) for body, end in contents]
    else:
        count, view = region.count, memoryview(region)
        index.octets.extend([end - body + count(b"\n", body, end) for body, end in contents])
        headers = _headers(region, contents)
        if has_notes(headers):
            digests = [content_hash(region[body:end]) for body, end in contents]
        else:
            digests = [sha256(view[body:end]).digest() for body, end in contents]
    index.digests += b"".join(digests)
    if headers.rfind(b"X-UIDL:") >= 0:
        for number, (body, end) in enumerate(contents, len(index)):
            if uidl := find_uidl(region[body:end]):
                index.uidls[number] = uidl
    for column, places in ((index.starts, starts), (index.bodies, bodies), (index.ends, ends)):
        column.extend([offset + place for place in places])


def _headers(region: bytes, contents: list[tuple[int, int]]) -> bytes:
    """Return the headers of messages with nothing but LF in their line ends, each from the LF of its From_ line."""
    find = region.find  # behind all messages but the last there is an empty line
    return b"".join([region[body - 1 : find(b"\n\n", body - 1, end + 1)] for body, end in contents])


def _places(region: bytes) -> tuple[list[int], list[int]]:
    """Return where in the region messages start, and where they end."""
    if b"\r" in region and region.rfind(b"\n\r\nFrom ") >= 0:
        found = list(_SEPARATOR.finditer(region))
        return [0, *(each.end() - 5 for each in found)], [*(each.start() + 1 for each in found), len(region)]
    starts, ends, at = [], [len(region)], len(region)
    rfind = region.rfind  # from the end, see quoted
    while (at := rfind(b"\n\nFrom ", 0, at)) >= 0:
        starts.append(at + 2)
        ends.append(at + 1)
    starts.append(0)
    return starts[::-1], ends[::-1]


def _last_separator(buffer: bytes) -> tuple[int, int]:
    """Return where the last message ends behind which another begins, and where that begins; 0 if there is none."""
    at = buffer.rfind(b"\n\nFrom ")
    with_cr = buffer.rfind(b"\n\r\nFrom ") if b"\r" in buffer else -1
    if at < 0 and with_cr < 0:
        return 0, 0
    return (at + 1, at + 2) if at > with_cr else (with_cr + 1, with_cr + 3)


def _last_empty_line(buffer: bytes) -> int:
    """How many octets at the end of the file are an empty line: 0, 1 (LF) or 2 (CRLF)."""
    return 1 if buffer.endswith(b"\n\n") else 2 if buffer.endswith(b"\n\r\n") else 0


def _no_from_line() -> NotMbox:
    return NotMbox("4.3.0", "it does not begin with a From line")
