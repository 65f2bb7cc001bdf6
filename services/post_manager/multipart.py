"""A multipart/form-data body (RFC 7578), read part by part and piece by piece, every bound before the work."""

import contextlib
import re
from collections.abc import Iterator
from typing import NoReturn, Protocol

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData, Preamble

from stubmail.request import Refusal

PIECE = 65_536  # octets taken from the connection at once
MAX_HEADERS = 1_024  # octets of one part's header fields
MAX_FRAME = 256 + MAX_HEADERS  # octets that a part may take beside its content

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 §5.1.1


class Stream(Protocol):
    """Where the body comes from: ``read`` blocks until it has that many octets, or fewer at the end."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` octets; none at the end."""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type names. Raises Refusal(media-type)."""
    media_type, options = parse_options_header(content_type)
    boundary = options.get("boundary", "")
    if media_type != "multipart/form-data" or not _BOUNDARY.fullmatch(boundary):
        raise Refusal("media-type", "the content type must be multipart/form-data with a boundary")
    return boundary.encode("ascii")


class Parts:
    """The parts of one body, in their order: ``begin`` one, ``read`` it, and so on until ``end``.

    Everything raises Refusal(malformed) when the body is not what it says. Never more than ``length`` octets are
    taken from the stream, and never more than PIECE ahead of what was asked for.
    """

    def __init__(self, stream: Stream, length: int, boundary: bytes) -> None:
        self._stream = stream
        self.unread = length
        self._decoder = MultipartDecoder(boundary, 2 * PIECE + MAX_HEADERS)
        self._more_data = False  # within a part
        self._begun = False

    def begin(self) -> str:
        """Go to the next part, which must be there, and return its name."""
        if self._more_data:
            raise RuntimeError("the part before was not read to its end")
        if not self._begun:
            event = self._next()
            if not isinstance(event, Preamble) or event.data.strip():
                _malformed("the body does not begin with its boundary")
            self._begun = True
        event = self._next()
        if not isinstance(event, Field | File):
            _malformed("a part is missing")
        if sum(len(name) + len(value) + 4 for name, value in event.headers) > MAX_HEADERS:
            _malformed("the header fields of a part are too long")
        if event.headers.get("Content-Transfer-Encoding", "binary").lower() not in ("binary", "8bit"):
            _malformed("a part has a content transfer encoding")
        self._more_data = True
        return event.name or ""

    def pieces(self) -> Iterator[bytes]:
        """Yield the content of the part, a piece of at most PIECE octets or so at a time."""
        while self._more_data:
            event = self._next()
            if not isinstance(event, Data):
                _malformed("a part breaks off")
            self._more_data = event.more_data
            if event.data:
                yield event.data

    def read(self, most: int) -> bytes:
        """Return the content of the part. Raises Refusal(too-large) when it goes beyond ``most`` octets."""
        content = bytearray()
        for piece in self.pieces():
            content += piece
            if len(content) > most:
                raise Refusal("too-large", f"a part is over {most} octets")
        return bytes(content)

    def end(self) -> None:
        """Make sure that no part follows, and that the body ends here."""
        event = self._next()
        if not isinstance(event, Epilogue) or event.data.strip():
            _malformed("the body goes on behind its last part")

    def skip(self, most: int) -> bool:
        """Read and forget what is left of the body when it is at most ``most`` octets; tell whether it was."""
        if self.unread > most:
            return False
        with contextlib.suppress(Refusal):
            while self._receive():
                pass
        return not self.unread

    def _next(self) -> Event:
        try:
            while isinstance(event := self._decoder.next_event(), NeedData):
                self._feed()
        except (ValueError, LookupError, AttributeError) as error:  # AttributeError: no line end where one must be
            raise Refusal("malformed", "the body is not multipart/form-data") from error
        except RequestEntityTooLarge as error:
            raise Refusal("malformed", "there is too much between the parts of the body") from error
        return event

    def _feed(self) -> None:
        if self._decoder.complete:
            _malformed("the body breaks off")
        data = self._receive()
        if not data and self.unread:
            _malformed("the body is shorter than its Content-Length")
        self._decoder.receive_data(data or None)

    def _receive(self) -> bytes:
        if not self.unread:
            return b""
        try:
            data = self._stream.read(min(PIECE, self.unread))
        except OSError as error:  # the connection was lost, or its time is over
            raise Refusal("malformed", "the body breaks off") from error
        self.unread -= len(data)
        return data


def _malformed(what: str) -> NoReturn:
    raise Refusal("malformed", what)
