"""A request's parts, read from the connection one by one and piece by piece, every bound before the work."""

from collections.abc import Iterator
from typing import NoReturn, Protocol

from services.post_manager.http.multipart import Begin, Decoder, Event, Mark, MultipartError
from stubmail.request import Refusal

PIECE = 65_536  # octets taken from the connection at once


class Stream(Protocol):
    """Where the body comes from: ``read`` blocks until it has that many octets, or fewer at the end."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` octets; none at the end."""


class Parts:
    """The parts of one body, in their order: ``begin`` one, ``read`` it, and so on until ``end``.

    Everything raises Refusal(malformed) when the body is not what it says. Never more than ``length`` octets are
    taken from the stream, and never more than PIECE ahead of what was asked for.
    """

    def __init__(self, stream: Stream, length: int, boundary: bytes) -> None:
        self._stream = stream
        self._decoder = Decoder(boundary)
        self._length = length
        self.unread = length

    @property
    def received(self) -> int:
        """Octets that were taken from the stream."""
        return self._length - self.unread

    def begin(self) -> str:
        """Go to the next part, which must be there, and return its name."""
        event = self._next()
        if not isinstance(event, Begin):
            _malformed("a part is missing")
        return event.name

    def pieces(self) -> Iterator[bytes]:
        """Yield the content of the part, at most PIECE octets or so at a time."""
        while isinstance(event := self._next(), bytes):
            yield event

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
        if self._next() is not Mark.END:
            _malformed("there are too many parts")
        if self.unread > PIECE:
            _malformed("something stands behind its end")
        while self._feed():
            pass
        try:
            self._decoder.close()
        except MultipartError as error:
            raise Refusal("malformed", str(error)) from error

    def skip(self, most: int) -> bool:
        """Read and forget what is left of the body when it is at most ``most`` octets; tell whether it was."""
        if self.unread > most:
            return False
        try:
            while self._receive():
                pass
        except Refusal:
            return False
        return True

    def _next(self) -> Event:
        try:
            while (event := self._decoder.next_event()) is None:
                if not self._feed():
                    _malformed("it breaks off")
        except MultipartError as error:
            raise Refusal("malformed", str(error)) from error
        return event

    def _feed(self) -> bool:
        data = self._receive()
        self._decoder.feed(data)
        return bool(data)

    def _receive(self) -> bytes:
        if not self.unread:
            return b""
        try:
            data = self._stream.read(min(PIECE, self.unread))
        except OSError as error:  # the connection was lost, or its time is over
            raise Refusal("malformed", "the body breaks off") from error
        if not data:
            _malformed("it is shorter than its Content-Length")
        self.unread -= len(data)
        return data


def _malformed(what: str) -> NoReturn:
    raise Refusal("malformed", f"the body is not as it must be: {what}")
