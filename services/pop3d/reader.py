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

BLOCK = 262_144  # octets of one write, more or less
TOGETHER = 262_144  # octets of messages, small enough, that are read together
NEIGHBOURS = 128  # messages that are read together

logger = logging.getLogger("pop3d")


class Reader:
    """Renders a session's retrievals: ``start`` a run of replies, then ``read`` until ``done``.

    Messages and the replies between them leave as blocks of about so many octets, so that one write serves many small
    messages, and memory does not grow with a large one. Neighbours are read together: those that are asked for in one
    run, and the next ones for a client that fetches one message after the other. ``read`` blocks: call it off the event
    loop.
    """

    __slots__ = ("_ahead", "_maildrop", "_next", "_pieces", "_session", "done", "failed")

    def __init__(self, maildrop: Maildrop, session: str) -> None:
        self._maildrop = maildrop
        self._session = session
        self._pieces: Iterator[bytes] = iter(())
        self._ahead: dict[int, bytes] = {}  # whole replies by message number
        self._next = 1  # the message that a client which takes them in order fetches next
        self.done = True
        self.failed: set[int] = set()  # messages that were asked for and not sent

    def cached(self, item: Retrieve) -> bytes | None:
        """Return the whole reply when it has been read ahead; does not block."""
        if item.lines is not None or item.number not in self._ahead:
            return None
        self._next = item.number + 1
        return self._ahead.pop(item.number)

    def forget(self) -> None:
        """Let go of what was read ahead: the client takes its time."""
        self._ahead = {}

    def start(self, items: Sequence[bytes | Retrieve]) -> None:
        """Begin a run: replies that are ready, and messages to read, in order."""
        self._pieces = self._render(items)
        self.done = False

    def read(self, most: int = BLOCK) -> bytes:
        """Return the next block, of ``most`` octets or little more; sets ``done`` with the last one.

        Raises TemporaryError or OSError when a message broke off after its beginning was handed out: then the
        connection must be cut, for an end of the message would be a lie.
        """
        block, size = [], 0
        for piece in self._pieces:
            block.append(piece)
            size += len(piece)
            if size >= most:
                return b"".join(block)
        self.done = True
        return b"".join(block)

    def _render(self, items: Sequence[bytes | Retrieve]) -> Iterator[bytes]:
        for at, item in enumerate(items):
            if isinstance(item, bytes):
                yield item
            elif (reply := self.cached(item)) is not None:
                yield reply
            else:
                if item.lines is None:
                    self._read_neighbours(items, at, item.number)
                reply = self.cached(item)
                yield from self._reply(item) if reply is None else (reply,)
                self._next = item.number + 1

    def _reply(self, item: Retrieve) -> Iterator[bytes]:
        pieces = self._maildrop.content(item.number)
        try:
            first = next(pieces, b"")
        except (TemporaryError, OSError) as error:
            self.failed.add(item.number)
            event(logger, "failed", self._session, logging.ERROR, message=item.number, reason=error)
            yield err("The message is not there any more, or not as it was", "SYS/TEMP")
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

    def _read_neighbours(self, items: Sequence[bytes | Retrieve], at: int, first: int) -> None:
        """Read the message that is asked for at ``items[at]``, and its neighbours, unless they are large."""
        self._ahead.clear()
        octets = self._maildrop.octets
        if len(items) == 1 and first == self._next:
            count = self._fitting(first, NEIGHBOURS)
        else:
            count = self._fitting(first, _successive(items, at, first))
        if not count:
            return
        try:
            messages = self._maildrop.several(first, count)
        except (TemporaryError, OSError):
            return  # the client hears of it when it comes to the first
        for number, message in enumerate(messages, first):
            size = octets[number - 1]
            if len(message) != size:
                return  # as above
            self._ahead[number] = b"".join((retrieved(size), stuff_whole(message), END))

    def _fitting(self, first: int, most: int) -> int:
        """Return how many messages from ``first`` on, at most so many, are small enough together."""
        room = TOGETHER
        for count, size in enumerate(self._maildrop.octets[first - 1 : first - 1 + most]):
            room -= size
            if room < 0:
                return count
        return min(most, len(self._maildrop.octets) - first + 1)


def _successive(items: Sequence[bytes | Retrieve], at: int, first: int) -> int:
    """Return how many messages, one after the other from ``first`` on, are asked for whole from ``items[at]`` on."""
    number = first
    for item in items[at:]:
        if not isinstance(item, bytes):
            if item.number != number or item.lines is not None or number - first == NEIGHBOURS:
                break
            number += 1
    return number - first
