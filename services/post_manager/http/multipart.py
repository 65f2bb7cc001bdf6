"""Multipart/form-data (RFC 7578, RFC 2046 §5.1) as this protocol uses it: octets in, parts out. Sans-IO.

Strict on purpose: line ends are CRLF, nothing stands before the first part or behind the last one, no part is encoded.
Werkzeug's decoder is not used, because it adds an octet to a part when a read ends within the last delimiter.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import NoReturn

MAX_HEADERS = 1_024  # octets of one part's header fields

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 §5.1.1
_WORD = r"[0-9A-Za-z!#$%&'*+.^_`|~-]+"  # RFC 9110 §5.6.2
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PARAMETER = re.compile(rf"\s*;\s*({_WORD})=({_WORD}|{_QUOTED})")
_CONTENT_TYPE = re.compile(rf"\s*multipart/form-data((?:{_PARAMETER.pattern})*)\s*", re.IGNORECASE)
_DISPOSITION = re.compile(rf"form-data((?:{_PARAMETER.pattern})*)", re.IGNORECASE)
_FIELD = re.compile(rf"({_WORD}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")


class MultipartError(ValueError):
    """The octets are not such a body; the message says where it goes wrong."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A part begins; its content follows in pieces."""

    name: str


class Mark(Enum):
    """What has no content of its own."""

    END_OF_PART = auto()
    END = auto()


class _State(Enum):
    START = auto()
    DELIMITED = auto()
    HEADERS = auto()
    CONTENT = auto()
    TAIL = auto()


Event = Begin | bytes | Mark


def parse_boundary(content_type: str) -> bytes:
    """Return the boundary that a Content-Type names. Raises MultipartError when it is no multipart/form-data."""
    match = _CONTENT_TYPE.fullmatch(content_type)
    boundary = _parameters(match[1]).get("boundary", "") if match else ""
    if not _BOUNDARY.fullmatch(boundary):
        raise MultipartError("the content type is not multipart/form-data with a boundary")
    return boundary.encode("ascii")


class Decoder:
    """Takes a body in pieces of any size; the events do not depend on where it was cut, but for pieces of content."""

    def __init__(self, boundary: bytes) -> None:
        self._dash_boundary = b"--" + boundary
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray()
        self._position = 0
        self._state = _State.START

    def feed(self, data: bytes) -> None:
        """Take the next octets."""
        del self._buffer[: self._position]
        self._position = 0
        self._buffer += data

    def next_event(self) -> Event | None:
        """Return the next event; None when more octets are needed first. Raises MultipartError.

        END comes as soon as the last delimiter is there; ``close`` checks what follows it.
        """
        if self._state is _State.START:
            if (start := self._take(len(self._dash_boundary))) is None:
                return None
            if start != self._dash_boundary:
                _malformed("it does not begin with its boundary")
            self._state = _State.DELIMITED
        if self._state is _State.DELIMITED:
            if (ending := self._take(2)) is None:
                return None
            if ending not in (b"\r\n", b"--"):
                _malformed("a delimiter goes on in its line")
            self._state = _State.TAIL if ending == b"--" else _State.HEADERS
        if self._state is _State.HEADERS:
            return self._headers()
        if self._state is _State.CONTENT:
            return self._content()
        return Mark.END

    def close(self) -> None:
        """The body has ended. Raises MultipartError when that is too early, or came too late."""
        if self._state is not _State.TAIL:
            _malformed("it breaks off")
        if bytes(self._buffer[self._position :]) not in (b"", b"\r\n"):
            _malformed("something stands behind its end")

    def _take(self, size: int) -> bytes | None:
        end = self._position + size
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[self._position : end])
        self._position = end
        return data

    def _headers(self) -> Begin | None:
        end = self._buffer.find(b"\r\n\r\n", self._position, self._position + MAX_HEADERS + 4)
        if end < 0:
            if len(self._buffer) - self._position >= MAX_HEADERS + 4:
                _malformed("the header fields of a part are too long")
            return None
        text = self._buffer[self._position : end].decode("latin-1")
        self._position = end + 4
        self._state = _State.CONTENT
        return Begin(_name(text))

    def _content(self) -> bytes | Mark | None:
        end = self._buffer.find(self._delimiter, self._position)
        if end == self._position:
            self._position += len(self._delimiter)
            self._state = _State.DELIMITED
            return Mark.END_OF_PART
        if end < 0:  # what may be the beginning of a delimiter waits
            end = len(self._buffer) - len(self._delimiter) + 1
        return self._take(end - self._position) if end > self._position else None


@lru_cache(maxsize=256)  # clients write the same few header fields over and over; each is MAX_HEADERS at most
def _name(headers: str) -> str:
    fields: dict[str, str] = {}
    for line in headers.split("\r\n"):
        match = _FIELD.fullmatch(line)
        if not match or match[1].lower() in fields:
            _malformed("a part has a malformed header field")
        fields[match[1].lower()] = match[2]
    if fields.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit"):
        _malformed("a part has a content transfer encoding")
    match = _DISPOSITION.fullmatch(fields.get("content-disposition", ""))
    if not match:
        _malformed("a part has no name")
    return _parameters(match[1]).get("name", "")


def _parameters(text: str) -> dict[str, str]:
    return {
        name.lower(): re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        for name, value in _PARAMETER.findall(text)
    }


def _malformed(what: str) -> NoReturn:
    raise MultipartError(f"the body is not multipart/form-data: {what}")
