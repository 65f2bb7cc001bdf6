"""Where the messages of an mbox begin and end, how large they are on the wire and what they hash to; octets in only.

A ``From `` line begins a message at the start of the file and behind an empty line, nowhere else: what legacy programs
store unquoted in the middle of a paragraph stays in its message. What follows ``From `` is not looked at, for its form
differs between programs. Empty lines before the first message belong to none. Lines end in LF; an empty one
may hold a CR. The empty line before a ``From `` line, or one at the end of the file, belongs to no message.
"""

import hashlib
import re
from array import array

from stubmail.mbox.errors import NotMbox
from stubmail.mbox.format import WireLength, wire_length

DIGEST_SIZE = 32

_FROM = re.compile(rb"\nFrom ")
_EMPTY_LINES = re.compile(rb"(?:\r?\n){1,1000}")  # no more at once: each costs memory while it may be given back
HEAD = 8192  # octets of a message in which an X-UIDL field is looked for
_UIDL = re.compile(rb"(?<=\nX-UIDL:)[ \t]*([\x21-\x7e]{1,70})[ \t]*\r?\n")
_EMPTY = re.compile(rb"^\r?\n", re.MULTILINE)
_HOLD = 7  # of "\n\r\nFrom " so many octets may have come and nothing be certain


class Index:
    """What is known of each message, 52 octets and a few in compact arrays; messages count from 0."""

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
        """The hash of message ``index``."""
        return bytes(self.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE])

    def after(self, index: int) -> int:
        """The offset behind message ``index`` and its empty line: where the next one begins, or the file ends."""
        return self.starts[index + 1] if index + 1 < len(self.starts) else self.size


class ContentHash:
    """Hashes stored content, fed in any pieces; a missing last LF counts as if it were there."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=DIGEST_SIZE)
        self._last = b""

    def feed(self, data: bytes) -> None:
        """Hash a piece."""
        self._hash.update(data)
        self._last = data[-1:] or self._last

    def finish(self) -> bytes:
        """Return the hash. A later delivery completes the last line, which must not make it another message."""
        if self._last not in (b"", b"\n"):
            self._hash.update(b"\n")
        return self._hash.digest()


def content_hash(content: bytes) -> bytes:
    """Return the hash of the whole stored content."""
    whole = hashlib.blake2b(content, digest_size=DIGEST_SIZE)
    if content and not content.endswith(b"\n"):
        whole.update(b"\n")
    return whole.digest()


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
    """Reads a file, fed in any pieces, into an Index; memory is that of the Index and of one piece."""

    def __init__(self) -> None:
        self._index = Index()
        self._buffer = b""
        self._offset = 0  # of the buffer's first octet in the file
        self._at = 0  # in the buffer: what is before has been dealt with, the two octets before are still looked at
        self._state = self._leading
        self._length = WireLength()
        self._hash = ContentHash()
        self._head = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises NotMbox when the file does not begin with a ``From `` line."""
        cut = max(0, self._at - 2)
        self._buffer = self._buffer[cut:] + data
        self._offset += cut
        self._at -= cut
        while self._state():
            pass

    def finish(self) -> Index:
        """Return what was found. Raises NotMbox as feed does."""
        end = len(self._buffer)
        self._index.size = self._offset + end
        if self._state == self._leading and self._at < end:
            raise _no_from_line()
        if self._state == self._from_line:
            self._begin_content(end)
        if self._state == self._content:
            self._end_content(end - self._empty_line(end))
        return self._index

    def _leading(self) -> bool:
        self._at = _skip_empty_lines(self._buffer, self._at)
        word = self._buffer[self._at : self._at + 5]
        if not b"From ".startswith(word) and word != b"\r":
            raise _no_from_line()
        if len(word) < 5:
            return False
        self._begin(self._at)
        return True

    def _from_line(self) -> bool:
        line_end = self._buffer.find(b"\n", self._at)
        if line_end < 0:
            self._at = len(self._buffer)
            return False
        self._begin_content(line_end + 1)
        return True

    def _content(self) -> bool:
        buffer = self._buffer
        at = self._at
        while found := _FROM.search(buffer, at):
            line_end = found.start()
            at = line_end + 1
            if empty := self._empty_line(at):
                self._end_content(at - empty)
                self._begin(at)
                return True
        settled = max(self._at, len(buffer) - _HOLD)
        if settled > self._at:
            self._take(buffer[self._at : settled])
            self._at = settled
        return False

    def _empty_line(self, end: int) -> int:
        """How many octets of content right before ``end`` are an empty line: 0, 1 (LF) or 2 (CRLF)."""
        buffer, at = self._buffer, self._at
        if buffer.endswith(b"\r\n", at, end):
            return 2 if buffer.endswith(b"\n\r\n", max(0, end - 3), end) else 0
        return 1 if buffer.endswith(b"\n", at, end) and buffer.endswith(b"\n\n", max(0, end - 2), end) else 0

    def _begin(self, at: int) -> None:
        self._index.starts.append(self._offset + at)
        self._at = at
        self._state = self._from_line

    def _begin_content(self, at: int) -> None:
        self._index.bodies.append(self._offset + at)
        self._at = at
        self._state = self._content

    def _take(self, content: bytes) -> None:
        if self._index.bodies[-1] == self._offset + self._at:
            self._length, self._hash, self._head = WireLength(), ContentHash(), b""
        if len(self._head) < HEAD:
            self._head += content[: HEAD - len(self._head)]
        self._length.feed(content)
        self._hash.feed(content)

    def _end_content(self, end: int) -> None:
        content = self._buffer[self._at : end]
        self._index.ends.append(self._offset + end)
        if self._index.bodies[-1] == self._offset + self._at:  # in one piece, as most are: twice as fast
            self._index.octets.append(wire_length(content))
            self._index.digests += content_hash(content)
        else:
            self._take(content)
            self._index.octets.append(self._length.finish())
            self._index.digests += self._hash.finish()
            content = self._head
        if uidl := find_uidl(content):
            self._index.uidls[len(self._index) - 1] = uidl


def _no_from_line() -> NotMbox:
    return NotMbox("4.3.0", "it does not begin with a From line")
