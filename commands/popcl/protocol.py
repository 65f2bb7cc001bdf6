"""The client's side of a POP3 connection without I/O: the server's octets in, events out (RFC 1939 §3).

The caller says which replies it waits for, in order, with ``expect``; feeds octets with ``receive``; and takes events
with ``next`` until there are none. Octets that nobody waits for are an error: a server never speaks first but for its
greeting, and what comes behind the answer to STLS in the clear was put there by somebody else (RFC 3207 §4.2 likewise).
"""

import enum
import re
from collections import deque
from typing import NamedTuple

MAX_STATUS = 2_048  # octets of a status line: RFC 2449 §4 allows 512, some servers send more
MAX_CHALLENGE = 12_288  # octets of a line during AUTH, RFC 5034 §4

_UNASKED = "the server sent what nobody has asked for"
_END = b"\r\n.\r\n"
_STATUS = re.compile(rb"(\+OK|-ERR)(?![A-Za-z0-9])[ \t]?(.*)", re.DOTALL)


class ProtocolError(Exception):
    """What the server sent is not POP3, or over a limit. The connection cannot be used any more."""


class Expect(enum.Enum):
    """The form of a reply."""

    LINE = enum.auto()  # a status line
    LINES = enum.auto()  # a status line; behind +OK lines up to a full stop alone
    AUTH = enum.auto()  # challenges until a status line, RFC 5034 §4


class Status(NamedTuple):
    """A status line: whether it was +OK, and its text."""

    ok: bool
    text: bytes


class Challenge(NamedTuple):
    """A server's turn in AUTH: base64, to be answered with one line."""

    text: bytes


class Data(NamedTuple):
    """A piece of a multi-line reply, byte-stuffing undone, cut anywhere."""

    octets: bytes


class End(NamedTuple):
    """A multi-line reply is whole."""


Event = Status | Challenge | Data | End


class Client:
    """What a server may send, and what it has sent. The greeting is expected from the beginning."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._expected: deque[Expect] = deque((Expect.LINE,))
        self._body: _Body | None = None

    def expect(self, reply: Expect) -> None:
        """Wait for one more reply, behind those already waited for; call it when the command is sent.

        Raises ProtocolError when the server has said more than it was asked for: it is no answer to this command.
        """
        if not self._expected and self._body is None and self._buffer:
            raise ProtocolError(_UNASKED)
        self._expected.append(reply)

    @property
    def quiet(self) -> bool:
        """Whether everything that was received has been understood."""
        return not self._buffer and self._body is None

    def receive(self, octets: bytes) -> None:
        """Take what the server sent."""
        self._buffer += octets

    def next(self) -> Event | None:
        """Return the next event; None when more must be received. Raises ProtocolError."""
        if self._body is not None:
            return self._next_of_body(self._body)
        if not self._buffer:
            return None
        if not self._expected:
            raise ProtocolError(_UNASKED)
        reply = self._expected[0]
        line = self._line(MAX_CHALLENGE if reply is Expect.AUTH else MAX_STATUS)
        if line is None:
            return None
        if reply is Expect.AUTH and (line == b"+" or line.startswith(b"+ ")):
            return Challenge(line[2:])
        match = _STATUS.fullmatch(line)
        if match is None:
            raise ProtocolError(f"the server sent no status line but {_quote(line)}")
        self._expected.popleft()
        ok = match[1] == b"+OK"
        if ok and reply is Expect.LINES:
            self._body = _Body()
        return Status(ok, match[2])

    def _line(self, limit: int) -> bytes | None:
        end = self._buffer.find(b"\n", 0, limit)
        if end < 0:
            if len(self._buffer) >= limit:
                raise ProtocolError(f"the server sent a line of more than {limit} octets")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")

    def _next_of_body(self, body: "_Body") -> Data | End | None:
        if body.whole:
            self._body = None
            return End()
        octets, rest = body.feed(bytes(self._buffer))
        self._buffer[:] = rest
        if octets:
            return Data(octets)
        return self._next_of_body(body) if body.whole else None


class _Body:
    """Takes the byte-stuffing out of a multi-line reply, fed in any pieces (RFC 1939 §3).

    Only CRLF ends a line: a bare LF in a message is content, and can neither end the reply nor lose a full stop.
    """

    def __init__(self) -> None:
        self._held = b"\r\n"  # what may be the beginning of the end; the first is the status line's, not content
        self._status_line_end = 2  # octets of it not yet dropped
        self.whole = False

    def feed(self, octets: bytes) -> tuple[bytes, bytes]:
        """Return content, and what follows the end."""
        if not octets:
            return b"", b""
        joined = self._held + octets
        end = joined.find(_END)
        if end >= 0:
            self.whole = True
            certain, rest = joined[: end + 2], joined[end + len(_END) :]
        else:
            keep = next(size for size in (4, 3, 2, 1, 0) if joined.endswith(_END[:size]))
            certain, rest = joined[: len(joined) - keep], b""
            self._held = joined[len(joined) - keep :]
        content = certain.replace(b"\r\n.", b"\r\n")[self._status_line_end :]
        self._status_line_end = max(0, self._status_line_end - len(certain))
        return content, rest


def _quote(line: bytes) -> str:
    """Show the beginning of a line that cannot be understood."""
    return repr(line[:60])[1:]
