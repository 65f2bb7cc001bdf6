"""Messages of an open maildrop as blocks for the wire, read off the event loop and a little ahead."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

from services.pop3d.actions import Retrieve
from services.pop3d.maildrop import Maildrop
from services.pop3d.stuffing import END, stuff, stuff_whole, top
from services.pop3d.wire import err, retrieved
from stubmail.errors import TemporaryError
from stubmail.log import event

BLOCK = 196_608  # octets of one write, more or less
TOGETHER = 262_144  # octets of messages, small enough, that are read together
LAST = 65_536  # as many more, if they are the last that were asked for
AHEAD = 524_288  # the same for a client that takes them one after the other
NEIGHBOURS = 128  # messages that are read together
PARTS = 3  # of a reply: the status line, the message, its end
FIRST = 8  # for such a client; then twice as many each time, so that who wants few does not wait for many
QUICK = 0.00005  # seconds a message, when it is in the kernel's memory and no disk or network is waited for

Item = bytes | Retrieve | range
"""A reply that is ready, a message to be read, or several whole ones, one after the other, by their numbers."""

logger = logging.getLogger("pop3d")


class Reader:
    """Renders a session's retrievals: ``start`` a run of replies, then ``read`` until ``done``.

    Messages and the replies between them leave as blocks of about so many octets, so that one write serves many small
    messages, and memory does not grow with a large one. Neighbours are read together: those that are asked for in one
    run, and the next ones for a client that fetches one message after the other. ``read`` and ``fetch`` block: call
    them off the event loop, one at a time.
    """

    __slots__ = (
        "_ahead",
        "_held",
        "_maildrop",
        "_next",
        "_pieces",
        "_reads_ahead",
        "_session",
        "_stride",
        "_until",
        "done",
        "failed",
        "quick",
    )

    def __init__(self, maildrop: Maildrop, session: str) -> None:
        self._maildrop = maildrop
        self._session = session
        self._pieces: Iterator[bytes] = iter(())
        self._ahead: dict[int, bytes] = {}  # whole replies by message number
        self._held = 0  # their octets
        self._next = 1  # the message that a client which takes them in order fetches next
        self._until = 1  # the first one behind those that were read ahead
        self._reads_ahead = False
        self._stride = FIRST  # messages that are read ahead next time
        self.quick = False  # the last fetch, in which nothing was waited for
        self.done = True
        self.failed: set[int] = set()  # messages that were asked for and not sent

    def cached(self, item: Retrieve) -> bytes | None:
        """Return the whole reply when it has been read ahead; does not block."""
        if item.lines is not None:
            return None
        reply = self._ahead.pop(item.number, None)
        if reply is not None:
            self._held -= len(reply)
            self._next = item.number + 1
        return reply

    @property
    def holding(self) -> bool:
        """Whether something is there that was read ahead."""
        return bool(self._ahead)

    @property
    def low(self) -> bool:
        """Whether so little of that is left that more should be read meanwhile.

        That pays when reading is waiting. From the kernel's memory the client has it faster when it waits: a thread at
        work beside the event loop takes Python's global lock from it at each message.
        """
        return not self.quick and len(self._ahead) <= self._stride // 2 and self._held <= AHEAD // 2

    def following(self) -> range:
        """Return the numbers of the messages to be read then."""
        most = min(self._stride, NEIGHBOURS // 2)
        return range(self._until, self._until + self._fitting(self._until, most, AHEAD // 2))

    def fetch(self, messages: range) -> list[bytes]:
        """Return the whole replies to retrievals of these messages, up to the first that cannot be read."""
        begun = time.monotonic()
        parts = self._parts(messages)
        replies = [b"".join(parts[at : at + PARTS]) for at in range(0, len(parts), PARTS)]
        self.quick = time.monotonic() - begun < QUICK * len(replies)
        return replies

    def keep(self, messages: range, replies: list[bytes]) -> None:
        """Have ``fetch``'s replies ready, and forget those that the client has passed over."""
        kept = {number: reply for number, reply in self._ahead.items() if number >= self._next}
        self._stride = min(2 * self._stride, NEIGHBOURS)
        self._hold(kept | dict(zip(messages, replies, strict=False)), messages.stop)

    def forget(self) -> None:
        """Let go of what was read ahead."""
        self._hold({}, self._next)

    def start(self, items: Sequence[Item], ahead: bool = True) -> None:
        """Begin a run: replies that are ready, and messages to read, in order.

        With ``ahead`` one that comes alone, and in its turn, has those behind it read, too.
        """
        self._pieces = self._render(items)
        self._reads_ahead = ahead
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
            if self.done:
                break
            if size >= most:
                return b"".join(block)
        self.stop()
        return b"".join(block)

    def stop(self) -> None:
        """End the run, if need be in the middle: it holds a message's file, and what it made last."""
        self.done = True
        self._pieces = iter(())

    def _render(self, items: Sequence[Item]) -> Iterator[bytes]:
        for at, item in enumerate(items):
            if isinstance(item, bytes):
                yield item
            elif isinstance(item, range):
                yield from self._in_turn(item, at == len(items) - 1)
            elif (reply := self.cached(item)) is not None:
                yield reply
            else:
                if item.lines is None:
                    self._read_neighbours(items, at, item.number)
                reply = self.cached(item)
                yield from self._reply(item) if reply is None else (reply,)
                self._next = item.number + 1

    def _in_turn(self, messages: range, last: bool) -> Iterator[bytes]:
        """Read messages that are asked for one after the other, as many together as fit; ``last``: nothing follows."""
        self.forget()
        while messages:
            most = min(len(messages), NEIGHBOURS)
            count = self._fitting(messages.start, most, TOGETHER + LAST)
            if count < len(messages):
                count = self._fitting(messages.start, most, TOGETHER)
            parts = self._parts(messages[:count]) if count else []
            found, messages = messages[: len(parts) // PARTS], messages[len(parts) // PARTS :]
            self._next = messages.start
            self.done = last and not messages  # so that nobody comes once more, to hear that there is nothing
            yield b"".join(parts)
            if len(found) < (count or 1):  # large, or not as it was
                number, messages = messages[0], messages[1:]
                self._next = messages.start
                yield from self._reply(Retrieve(number, None, retrieved(self._maildrop.octets[number - 1])))

    def _parts(self, messages: range) -> list[bytes]:
        """Return PARTS of the reply to each retrieval of these messages, up to the first that cannot be read."""
        sizes, parts = self._maildrop.octets[messages.start - 1 : messages.stop - 1], list[bytes]()
        # The client hears of what is wrong when it comes to that message.
        with suppress(TemporaryError, OSError):
            for message, size in zip(self._maildrop.several(messages.start, len(messages)), sizes, strict=False):
                if len(message) != size:
                    break
                parts += (retrieved(size), stuff_whole(message), END)
        return parts

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

    def _read_neighbours(self, items: Sequence[Item], at: int, first: int) -> None:
        """Read the message that is asked for at ``items[at]``, and its neighbours, unless they are large."""
        self.forget()
        if self._reads_ahead and len(items) == 1 and first == self._next:
            count = self._fitting(first, self._stride, AHEAD)
            self._stride = min(2 * self._stride, NEIGHBOURS)
        else:
            count = self._fitting(first, _successive(items, at, first), TOGETHER)
            self._stride = FIRST
        if count:
            messages = range(first, first + count)
            self._hold(dict(zip(messages, self.fetch(messages), strict=False)), messages.stop)

    def _hold(self, replies: dict[int, bytes], until: int) -> None:
        self._ahead = replies
        self._held = sum(map(len, replies.values()))
        self._until = until

    def _fitting(self, first: int, most: int, room: int) -> int:
        """Return how many messages from ``first`` on, at most so many, have no more than ``room`` octets together."""
        for count, size in enumerate(self._maildrop.octets[first - 1 : first - 1 + most]):
            room -= size
            if room < 0:
                return count
        return min(most, len(self._maildrop.octets) - first + 1)


def in_turn(numbers: Sequence[int]) -> list[range]:
    """Return messages as ranges, which are one where each number follows on the one before."""
    ranges: list[range] = []
    start = 0
    for at in range(1, len(numbers) + 1 if numbers else 0):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            ranges.append(range(numbers[start], numbers[at - 1] + 1))
            start = at
    return ranges


def _successive(items: Sequence[Item], at: int, first: int) -> int:
    """Return how many messages, one after the other from ``first`` on, are asked for whole from ``items[at]`` on."""
    number = first
    for item in items[at:]:
        if isinstance(item, Retrieve):
            if item.number != number or item.lines is not None or number - first == NEIGHBOURS:
                break
            number += 1
    return number - first
