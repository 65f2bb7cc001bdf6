"""A session's retrievals on the event loop: messages in runs and blocks, and those that the client will want next."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from services.pop3d.actions import Retrieve
from services.pop3d.busy_poll import SECONDS
from services.pop3d.host import Host
from services.pop3d.maildrop import Maildrop
from services.pop3d.reader import BLOCK, Item, Reader

SMALL = 32_768  # octets in one block while somebody logs in
REST = 0.001  # seconds then between blocks


class Taker(Protocol):
    """The connection that messages go to."""

    id: str

    @property
    def lost(self) -> bool:
        """Whether it is gone."""

    def write(self, out: list[bytes]) -> None:
        """Send octets."""

    async def writable(self) -> None:
        """Wait until the client takes more."""


class Retrieval:
    """Sends an open maildrop's messages. While a client handles what it got, the next ones are read if that takes time.

    It is done in a thread, as all reading is; ``settle`` waits until that has left the maildrop alone.
    """

    __slots__ = ("_asked", "_client", "_host", "_loop", "_reader", "_reading")

    def __init__(self, host: Host, client: Taker, maildrop: Maildrop) -> None:
        self._host = host
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(maildrop, client.id)
        self._asked = 0.0  # when the client did so, of what had been read ahead
        self._reading: asyncio.Future[list[bytes]] | None = None  # ahead of the client

    @property
    def failed(self) -> set[int]:
        """Messages that were asked for and not sent."""
        return self._reader.failed

    def ready(self, item: Retrieve) -> bytes | None:
        """Return the whole reply when it has been read ahead, and have those read that are to follow."""
        reply = self._reader.cached(item)
        if reply is None:
            return None
        if self._reader.low and self._reading is None:
            self._read_ahead()
        asked, self._asked = self._asked, time.monotonic()
        if self._asked - asked < SECONDS:
            self._host.busy_poll.start(self._asked)
        return reply

    async def send(self, items: Sequence[Item], more: Callable[[], Sequence[Item]] = tuple) -> None:
        """Send messages, and the replies between them, and then what ``more`` returns, until that is nothing.

        Raises TemporaryError or OSError when the connection must be cut: see Reader.read.
        """
        await self.settle()
        reader, ahead = self._reader, self._host.ahead
        many = len(items) > 1 or isinstance(items[0], range)
        reader.start(items, ahead=not many and ahead.enter(self, self._loop.time()))
        try:
            await self._make_room(many)
            block = await self._read()
            while not self._client.lost and self._goes_on(more):
                following = self._read()  # while this one is on its way
                self._client.write([block])
                await self._client.writable()
                block = await following
                await self._make_room(True)
            self._client.write([block])
            await self._client.writable()
        finally:
            reader.stop()
            if not (reader.holding and ahead.has(self)):
                self.rest()

    def _goes_on(self, more: Callable[[], Sequence[Item]]) -> bool:
        """Tell whether there is something to be read, if need be of what the client has asked for meanwhile."""
        if self._reader.done and (items := more()):
            self._reader.start(items, ahead=False)
        return not self._reader.done

    def rest(self) -> None:
        """Keep nothing in memory that the client may never ask for."""
        self._reader.forget()
        self._host.ahead.leave(self)

    async def settle(self) -> None:
        """Wait until nothing is being read ahead."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _read_ahead(self) -> None:
        messages = self._reader.following()
        if messages and not self._others_log_in and self._host.ahead.enter(self, self._loop.time()):
            self._host.jobs += 1
            self._reading = self._loop.run_in_executor(self._host.mail, self._reader.fetch, messages)
            self._reading.add_done_callback(partial(self._arrived, messages))

    def _arrived(self, messages: range, reading: asyncio.Future[list[bytes]]) -> None:
        self._host.jobs -= 1
        self._reading = None
        if self._host.ahead.has(self):  # still
            self._reader.keep(messages, reading.result())

    def _read(self) -> asyncio.Future[bytes]:
        most = SMALL if self._others_log_in else BLOCK
        return self._loop.run_in_executor(self._host.mail, self._reader.read, most)

    @property
    def _others_log_in(self) -> bool:
        return self._host.arrivals.others(self._client.id, self._loop.time())

    async def _make_room(self, much: bool) -> None:
        """Let others log in: that goes from thread to thread, and each has to get hold of Python's global lock."""
        if much and self._others_log_in:
            await asyncio.sleep(REST)
