"""Octets between a client, whose TLS stays in this process, and the process that goes on with its session."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import cast

from services.pop3d.channel import Channel
from services.pop3d.patience import LINGER

BUFFER = 65_536  # octets that wait for a client; then the other process is not read, and notices that nothing moves


class Relay(asyncio.Protocol):
    """The client's side. ``finished`` is called when both sides are closed; the channel's transport is given to this.

    It knows no deadlines but that for a client who does not take the last octets, ``seconds``: the other process has
    them all, and closes its side when one is over.
    """

    def __init__(self, channel: Channel, seconds: float, finished: Callable[[], None]) -> None:
        self._channel = channel
        self._seconds = seconds
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Handle | None = None
        self._inside = _Inside(self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sides = 2
        self._lost = False
        channel.pause_reading()
        channel.carry(self, BUFFER)

    def begin(self, inside: socket.socket, octets: bytes) -> None:
        """Carry everything between the client and this end of a pair, ``octets`` of the client's first."""
        task = self._loop.create_task(self._begin(inside, octets))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self, inside: socket.socket, octets: bytes) -> None:
        await self._loop.create_unix_connection(lambda: self._inside, sock=inside)
        self._inside.transport.write(octets)
        self._channel.resume_reading()

    # What asyncio calls

    def data_received(self, data: bytes) -> None:
        if self._end is not None:
            return  # see Channel.finish
        try:
            self._inside.send(self._channel.receive(data))
        except ssl.SSLError:
            self._channel.abort()
            return
        if self._channel.ended:
            self._inside.send_end()

    def eof_received(self) -> bool:
        self._inside.send_end()
        return True

    def pause_writing(self) -> None:
        if self._inside.open:
            self._inside.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._inside.open:
            self._inside.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._end is not None:
            self._end.cancel()
        self._inside.close()
        self._over()

    # What the other side calls

    def write(self, octets: bytes) -> None:
        """Send octets to the client."""
        self._channel.write(octets)

    def hold(self, wait: bool) -> None:
        """Read the client no more for now, or again."""
        if wait:
            self._channel.pause_reading()
        elif self._end is None:
            self._channel.resume_reading()

    def ended(self) -> None:
        """The other process has said all: the client may take its last octets, and hang up."""
        if self._end is None and not self._lost:
            self._channel.finish(linger=True)
            self._wait(self._loop.time() + self._seconds)

    def inside_closed(self) -> None:
        """The other side is closed."""
        self.ended()
        self._over()

    def _wait(self, deadline: float) -> None:
        """Give the client time to take what is sent, and then to hang up."""
        if self._channel.unsent() and self._loop.time() < deadline:
            self._end = self._loop.call_later(LINGER, self._wait, deadline)
        else:
            self._end = self._loop.call_later(LINGER, self._channel.abort)

    def _over(self) -> None:
        self._sides -= 1
        if not self._sides:
            self._finished()


class _Inside(asyncio.Protocol):
    """The other process's side."""

    transport: asyncio.Transport

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._ended = False

    @property
    def open(self) -> bool:
        """Whether it can be read."""
        return hasattr(self, "transport") and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._ended:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._relay.write(data)

    def eof_received(self) -> bool:
        self._relay.ended()
        return False

    def pause_writing(self) -> None:
        self._relay.hold(True)

    def resume_writing(self) -> None:
        self._relay.hold(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.inside_closed()

    def send(self, octets: bytes) -> None:
        """Send the client's octets."""
        if octets and self.open and not self._ended:
            self.transport.write(octets)

    def send_end(self) -> None:
        """Say that the client has said all."""
        if self.open and not self._ended:
            self._ended = True
            self.transport.write_eof()

    def close(self) -> None:
        """The client is gone."""
        if hasattr(self, "transport"):
            self.transport.abort()
        self._ended = True
