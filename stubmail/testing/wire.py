"""Links between domains that a test can watch and disturb: they record, cut, delay, duplicate and forge."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import cast

Place = tuple[str, int]
_PIECE = 65_536
_CLIENTS = 64  # whose answers a UDP relay still knows where to send


@dataclass
class Faults:
    """What happens to the octets on one link; change it at any time, also from another thread.

    ``cut``: connections are refused and ended, datagrams lost. ``delay``: seconds that each piece waits.
    ``duplicate``: how many further times each datagram arrives. ``forge``: what arrives instead of each piece or
    datagram; its second argument tells whether it goes towards the service.
    """

    cut: bool = False
    delay: float = 0.0
    duplicate: int = 0
    forge: Callable[[bytes, bool], bytes] | None = None


@dataclass
class Link:
    """One relay in front of one service: its place, and all the octets that passed it, in both directions."""

    target: Place
    udp: bool
    place: Place = ("127.0.0.1", 0)
    faults: Faults = field(default_factory=Faults)
    recorded: bytearray = field(default_factory=bytearray)

    async def start(self) -> Callable[[], None]:
        """Open the relay's socket, which fills in ``place``; returns what closes it."""
        if self.udp:
            return await _start_udp(self)
        return await _start_tcp(self)

    async def pass_on(self, data: bytes, inward: bool) -> list[bytes]:
        """Record a piece, apply the faults, and return what arrives: nothing, one piece, or one datagram repeatedly."""
        self.recorded += data
        if self.faults.delay:
            await asyncio.sleep(self.faults.delay)
        if self.faults.cut:
            return []
        passed = self.faults.forge(data, inward) if self.faults.forge else data
        return [passed] * (1 + self.faults.duplicate if self.udp else 1)


async def _start_tcp(link: Link) -> Callable[[], None]:
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inward: bool) -> None:
        while data := await reader.read(_PIECE):
            passed = await link.pass_on(data, inward)
            if not passed:
                raise ConnectionResetError
            writer.writelines(passed)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        writers = [writer]
        try:
            if link.faults.cut:
                return
            far_reader, far_writer = await asyncio.open_connection(*link.target)
            writers.append(far_writer)
            await asyncio.gather(pump(reader, far_writer, True), pump(far_reader, writer, False))
        except (OSError, asyncio.CancelledError):
            return
        finally:
            for each in writers:
                each.transport.abort() if link.faults.cut else each.close()

    server = await asyncio.start_server(serve, *link.place)
    link.place = server.sockets[0].getsockname()[:2]

    def close() -> None:
        server.close()
        for task in tasks:
            task.cancel()

    return close


class _Towards(asyncio.DatagramProtocol):
    """The far side of one client's datagrams: what comes back goes to that client."""

    def __init__(self, back: Callable[[bytes], None]) -> None:
        self._back = back

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._back(data)


class _Relay(asyncio.DatagramProtocol):
    def __init__(self, link: Link) -> None:
        self._link = link
        self._near: asyncio.DatagramTransport | None = None
        self._far: dict[Place, asyncio.DatagramTransport] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._near = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Place) -> None:
        self._spawn(self._inward(data, addr))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for transport in [*self._far.values(), self._near]:
            if transport is not None:
                transport.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _inward(self, data: bytes, client: Place) -> None:
        passed = await self._link.pass_on(data, True)
        far = self._far.get(client)
        if far is None:
            loop = asyncio.get_running_loop()
            towards = _Towards(lambda answer: self._spawn(self._outward(answer, client)))
            far, _ = await loop.create_datagram_endpoint(lambda: towards, remote_addr=self._link.target)
            self._far[client] = far
            if len(self._far) > _CLIENTS:
                self._far.pop(next(iter(self._far))).close()
        for datagram in passed:
            far.sendto(datagram)

    async def _outward(self, data: bytes, client: Place) -> None:
        for datagram in await self._link.pass_on(data, False):
            if self._near is not None:
                self._near.sendto(datagram, client)


async def _start_udp(link: Link) -> Callable[[], None]:
    loop = asyncio.get_running_loop()
    transport, relay = await loop.create_datagram_endpoint(lambda: _Relay(link), local_addr=link.place)
    link.place = transport.get_extra_info("sockname")[:2]
    return relay.close
