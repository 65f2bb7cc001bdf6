"""Messages of an open maildrop as blocks for the wire, read off the event loop and a little ahead."""

import logging
from collections.abc import Iterator, Sequence
from itertools import chain

from services.pop3d.actions import Retrieve
from services.pop3d.maildrop import Maildrop
from services.pop3d.stuffing import END, stuff, stuff_whole, top
from services.pop3d.wire import err, retrieved
from stubmail.errors import TemporaryError
from stubmail.log import event

BLOCK = 131_072  # octets of one write, more or less
AHEAD = 65_536  # octets read ahead for a client that fetches one message after the other

logger = logging.getLogger("pop3d")


class Reader:
    """Renders a session's retrievals: ``start`` a run of replies, then ``read`` until ``done``.

    Messages and the replies between them leave as blocks of about BLOCK octets, so that one write serves many small
    messages, and memory does not grow with a large one. ``read`` blocks: call it off the event loop.
    """

    def __init__(self, maildrop: Maildrop, session: str) -> None:
        self._maildrop = maildrop
        self._session = session
        self._pieces: Iterator[bytes] = iter(())
        self._ahead: dict[int, bytes] = {}
        self._next = 1  # the message that a client which takes them in order fetches next
        self.done = True
        self.failed: set[int] = set()  # messages that were asked for and not sent

    def cached(self, item: Retrieve) -> bytes | None:
        """Return the whole reply when it has been read ahead; does not block."""
        if item.lines is not None or item.number not in self._ahead:
            return None
        self._next = item.number + 1
        return self._ahead.pop(item.number)

    def start(self, items: Sequence[bytes | Retrieve]) -> None:
        """Begin a run: replies that are ready, and messages to read, in order."""
        self._pieces = self._render(items)
        self.done = False

    def read(self) -> bytes:
        """Return the next block; sets ``done`` with the last one.

        Raises TemporaryError or OSError when a message broke off after its beginning was handed out: then the
        connection must be cut, for an end of the message would be a lie.
        """
        block, size = [], 0
        for piece in self._pieces:
            block.append(piece)
            size += len(piece)
            if size >= BLOCK:
                return b"".join(block)
        self.done = True
        return b"".join(block)

    def _render(self, items: Sequence[bytes | Retrieve]) -> Iterator[bytes]:
        in_order = False
        for item in items:
            if isinstance(item, bytes):
                yield item
                continue
            yield from self._reply(item)
            in_order = item.lines is None and item.number == self._next
            self._next = item.number + 1
        self._ahead.clear()
        if in_order and len(items) == 1:
            self._read_ahead()

    def _reply(self, item: Retrieve) -> Iterator[bytes]:
        pieces = self._maildrop.content(item.number)
        try:
            first = next(pieces, b"")
        except (TemporaryError, OSError) as error:
            self.failed.add(item.number)
            event(logger, "failed", self._session, logging.ERROR, message=item.number, reason=error)
            yield err("The message is not there any more, or not as it was", "SYS/TEMP")
            return
        if item.lines is None and len(first) == self._maildrop.octets[item.number - 1] and not next(pieces, b""):
            yield b"".join((item.head, stuff_whole(first), END))
            return
        yield item.head
        whole = chain((first,), pieces)
        if item.lines is None:
            yield from stuff(self._counted(whole, item.number))
        else:
            yield from stuff(top(whole, item.lines))
        yield END

    def _counted(self, pieces: Iterator[bytes], number: int) -> Iterator[bytes]:
        """Pass on the pieces of a message, and raise when they are not as many octets as was announced."""
        octets = 0
        for piece in pieces:
            octets += len(piece)
            yield piece
        if octets != self._maildrop.octets[number - 1]:
            raise TemporaryError("4.3.0", f"message {number} has {octets} octets, not what was announced")

    def _read_ahead(self) -> None:
        number, size = self._next, 0
        octets = self._maildrop.octets
        while number <= len(octets) and size + octets[number - 1] <= AHEAD:
            size += octets[number - 1]
            try:
                message = b"".join(self._counted(self._maildrop.content(number), number))
            except (TemporaryError, OSError):
                return  # the client hears of it when it asks for the message
            self._ahead[number] = b"".join((retrieved(octets[number - 1]), stuff_whole(message), END))
            number += 1
