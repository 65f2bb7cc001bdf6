"""The frames of a fetch answer: a 40-octet header for each post, then its content (protocol.md §5.4). Sans-IO."""

import struct
from dataclasses import dataclass
from typing import ClassVar

CONTENT, ABSENT, WITHDRAWN, LAST = 0, 1, 2, 255
MEDIA_TYPE = "application/vnd.stubmail.posts"

_HEADER = struct.Struct(">16sB7xQQ")
HEADER_SIZE = _HEADER.size  # 40 octets


class FrameError(ValueError):
    """The octets are not frames; everything behind the last whole frame is worthless."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame's header: the post's id (16 octets), its state, and where its content begins and how long it is."""

    id: bytes
    state: int
    offset: int = 0
    length: int = 0

    SIZE: ClassVar[int] = HEADER_SIZE

    def to_wire(self) -> bytes:
        """Return the 40 octets that stand before the content."""
        return _HEADER.pack(self.id, self.state, self.offset, self.length)

    @classmethod
    def from_wire(cls, data: bytes) -> "Frame":
        """Parse 40 octets. Raises FrameError for an unknown state, or a length where no content can follow."""
        if len(data) != HEADER_SIZE:
            raise FrameError(f"a frame's header is {HEADER_SIZE} octets")
        frame = cls(*_HEADER.unpack(data))
        if frame.to_wire() != data:
            raise FrameError("reserved octets are not zero")
        if frame.state not in (CONTENT, ABSENT, WITHDRAWN, LAST):
            raise FrameError(f"unknown state {frame.state}")
        if frame.state != CONTENT and (frame.length or frame.offset):
            raise FrameError("a frame without content has an offset or a length")
        if frame.state == LAST and any(frame.id):
            raise FrameError("the end frame has an id")
        return frame


END = Frame(bytes(16), LAST)


class FrameReader:
    """Turns octets as they arrive into frames and pieces of their content.

    After a CONTENT frame come its content's pieces, ``frame.length`` octets together; the end frame is an event too.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0  # octets of content still to come
        self._error: FrameError | None = None
        self.finished = False

    def feed(self, data: bytes) -> list[Frame | bytes]:
        """Take the next octets and return what they complete.

        Raises FrameError for octets that are no frame, also behind the end; what came whole before them is returned
        first, and the error is raised by the next call.
        """
        events: list[Frame | bytes] = []
        if self._error is None:
            try:
                self._take(self._buffer + data, events)
            except FrameError as error:
                self._error = error
        if self._error is not None and not events:
            raise self._error
        return events

    def close(self) -> None:
        """There are no more octets. Raises FrameError unless the end frame came, and nothing behind it."""
        if self._error is not None:
            raise self._error
        if not self.finished:
            raise FrameError("the octets break off before the end frame")

    def _take(self, data: bytes, events: list[Frame | bytes]) -> None:
        position = 0
        while position < len(data):
            if self.finished:
                raise FrameError("octets after the end frame")
            if self._left:
                piece = data[position : position + self._left]
                self._left -= len(piece)
                position += len(piece)
                events.append(piece)
                continue
            if len(data) - position < HEADER_SIZE:
                break
            frame = Frame.from_wire(data[position : position + HEADER_SIZE])
            position += HEADER_SIZE
            self._left = frame.length
            self.finished = frame.state == LAST
            events.append(frame)
        self._buffer = data[position:]
