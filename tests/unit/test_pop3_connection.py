"""One connection on a transport in memory: turns, being held back, hanging up; and the server's count of them."""

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.pop3d import arrivals
from services.pop3d import connection as connection_module
from services.pop3d.actions import Retrieve
from services.pop3d.connection import MAX_PENDING, REST, TURN, Connection
from services.pop3d.errands import FEW
from services.pop3d.preamble import Preamble
from services.pop3d.proxy import to_wire
from services.pop3d.reader import Reader
from services.pop3d.server import Server
from services.pop3d.settings import Pop3d
from services.pop3d.tls import load_certificate
from stubmail.users import User, Users
from tests.support.pop3d import CERT, KEY, mbox


class Transport(asyncio.Transport):
    """Keeps what is written; ``full`` says whether the client takes any."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 1) if peer else None})
        self.protocol: asyncio.BaseProtocol | None = None
        self.written = b""
        self.reading = True
        self.closed = self.half_closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        assert not self.half_closed
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write_eof(self) -> None:
        self.half_closed = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


class World:
    """A server without sockets, and connections to it."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        path = tmp_path / "bob"
        path.write_bytes(mbox(b"Subject: x\n\ntext\n"))
        users = Users([User("bob", password="{PLAIN}x", maildrop=f"mbox:{path}")])
        self.server = Server(Pop3d(users=tmp_path, **settings), users, load_certificate(CERT, KEY))
        self.transports: list[Transport] = []

    def connect(self, peer: str = "127.0.0.1", implicit_tls: bool = False) -> tuple[Connection, Transport]:
        connection, transport = Connection(self.server, implicit_tls), Transport(peer)
        connection.connection_made(transport)
        return connection, transport


def ip_networks(*texts: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(text) for text in texts]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def end(connection: Connection) -> None:
    connection.connection_lost(None)


def test_a_turn_is_bounded_and_there_is_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        connection, transport = World(tmp_path).connect()
        connection.data_received(b"USER bob\r\nPASS x\r\n")
        await until(lambda: b"+OK maildrop" in transport.written)
        begin = len(transport.written)
        loop, turns = asyncio.get_running_loop(), []
        call_later = loop.call_later
        monkeypatch.setattr(loop, "call_later", lambda *args: turns.append(args) or call_later(*args))
        for _ in range(10):
            connection.data_received(b"NOOP\r\n" * 10 * TURN)
        assert (len(transport.written) - begin) // len(b"+OK\r\n") == TURN
        assert len(turns) == 1
        await until(lambda: len(transport.written) - begin == 100 * TURN * len(b"+OK\r\n"))
        assert len(turns) == 100
        end(connection)

    run(work)


@pytest.mark.parametrize("crowded", [True, False])
def test_who_has_much_to_do_makes_room_for_those_who_log_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crowded: bool
) -> None:
    async def work() -> None:
        world = World(tmp_path)
        connection, transport = world.connect()
        connection.data_received(b"USER bob\r\nPASS x\r\n")
        await until(lambda: b"+OK maildrop" in transport.written and not world.server.jobs)
        loop = asyncio.get_running_loop()
        rests: list[float] = []
        runs: list[int] = []
        call_later, start = loop.call_later, Reader.start

        def later(seconds: float, *args: Any) -> asyncio.TimerHandle:
            rests.append(seconds)
            return call_later(0, *args)

        def counted(self: Reader, items: Sequence[bytes | Retrieve], ahead: bool) -> None:
            runs.append(len(items))
            start(self, items, ahead)

        monkeypatch.setattr(loop, "call_later", later)
        monkeypatch.setattr(Reader, "start", counted)
        monkeypatch.setattr(arrivals, "SECONDS", 1000.0 if crowded else 0.0)
        world.server.arrivals.note("another", loop.time())
        connection.data_received(b"NOOP\r\n" * (TURN + 1))
        assert rests == [REST if crowded else 0]
        connection.data_received(b"RETR 1\r\n" * 4 * FEW)
        await until(lambda: transport.written.count(b"\r\n.\r\n") == 4 * FEW)
        assert runs == ([FEW] * 4 if crowded else [4 * FEW])
        assert rests[1:].count(REST) == (4 if crowded else 0)
        end(connection)

    run(work)


@pytest.mark.parametrize("quiet", [0.0, 60.0])
def test_what_was_read_ahead_is_let_go_when_the_client_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: float
) -> None:
    async def work() -> None:
        world = World(tmp_path)
        path = tmp_path / "bob"
        path.write_bytes(mbox(b"one\n", b"two\n"))
        connection, transport = world.connect()
        connection.data_received(b"USER bob\r\nPASS x\r\nRETR 1\r\n")
        await until(lambda: b"one\r\n.\r\n" in transport.written and not world.server.jobs)
        path.unlink()
        monkeypatch.setattr(connection_module, "QUIET", quiet)
        connection.look()
        connection.data_received(b"RETR 2\r\n")
        await until(lambda: not world.server.jobs)
        assert (b"two\r\n.\r\n" in transport.written) == bool(quiet)
        end(connection)

    run(work)


def test_what_comes_faster_than_it_is_answered_is_held_back(tmp_path: Path) -> None:
    async def work() -> None:
        connection, transport = World(tmp_path).connect()
        connection.data_received(b"USER bob\r\nPASS x\r\n" + b"NOOP\r\n" * (MAX_PENDING // 6 + 1))
        assert not transport.reading
        await until(lambda: transport.reading)
        end(connection)

    run(work)


def test_replies_wait_while_the_client_takes_none(tmp_path: Path) -> None:
    async def work() -> None:
        connection, transport = World(tmp_path).connect()
        connection.pause_writing()
        connection.data_received(b"CAPA\r\nQUIT\r\n")
        assert transport.written.count(b"\r\n") == 1
        connection.resume_writing()
        assert transport.written.endswith(b"signing off\r\n")
        assert transport.closed
        end(connection)

    run(work)


def test_who_hangs_up_before_the_handshake_is_gone_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        connection, transport = World(tmp_path).connect(implicit_tls=True)
        connection.eof_received()
        assert transport.closed
        assert transport.written == b""
        end(connection)

    run(work)


def test_of_tls_that_breaks_while_messages_are_on_their_way_nothing_but_the_alert_is_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        world = World(tmp_path)
        connection, transport = world.connect(implicit_tls=True)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = ssl.create_default_context(cafile=CERT).wrap_bio(incoming, outgoing, server_hostname="localhost")
        for _ in range(2):
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            connection.data_received(outgoing.read())
            incoming.write(transport.written)
            transport.written = b""
        tls.write(b"USER bob\r\nPASS x\r\n")
        connection.data_received(outgoing.read())
        await until(lambda: not world.server.jobs)
        tls.write(b"RETR 1\r\n" * 10)
        connection.data_received(outgoing.read())
        transport.written = b""
        connection.data_received(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert transport.half_closed
        alert = transport.written
        await until(lambda: not world.server.jobs)
        assert transport.written == alert != b""
        end(connection)
        await until(lambda: not world.server.sessions)

    run(work)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_maildrop_opened_for_a_client_that_is_gone_is_closed_again(tmp_path: Path) -> None:
    async def work() -> None:
        world = World(tmp_path)
        connection, transport = world.connect()
        connection.data_received(b"USER bob\r\nPASS x\r\n")
        transport.close()
        end(connection)
        await until(lambda: not world.server.jobs)
        other, transport = world.connect()
        other.data_received(b"USER bob\r\nPASS x\r\n")
        await until(lambda: b"+OK maildrop" in transport.written)
        end(other)

    run(work)


def test_after_an_error_the_clients_words_are_read_away_before_the_connection_goes(tmp_path: Path) -> None:
    async def work() -> None:
        connection, transport = World(tmp_path).connect()
        connection.data_received(b"x" * 1000)
        assert transport.written.endswith(b"-ERR Line too long\r\n")
        assert transport.half_closed
        assert not transport.closed
        connection.data_received(b"QUIT\r\n" * 1000)
        assert transport.written.endswith(b"-ERR Line too long\r\n")
        assert not connection.eof_received()
        end(connection)

    run(work)


def test_sessions_of_one_address_are_limited_and_this_machine_is_excepted(tmp_path: Path) -> None:
    async def work() -> None:
        world = World(tmp_path, sessions_per_address=2)
        near = [world.connect("127.0.0.1") for _ in range(5)]
        far = [world.connect(f"2001:db8::{number}") for number in range(3)]
        other = world.connect("2001:db8:0:1::1")
        greetings = [transport.written[:3] for _, transport in (*near, *far, other)]
        assert greetings == [b"+OK"] * 5 + [b"+OK", b"+OK", b"-ER"] + [b"+OK"]
        for connection, _ in (*near, *far, other):
            end(connection)
        again = world.connect("2001:db8::9")
        assert again[1].written.startswith(b"+OK")
        end(again[0])

    run(work)


def test_a_client_that_is_gone_before_anybody_asked_who_it_was(tmp_path: Path) -> None:
    """Then the socket does not tell its peer."""

    async def work() -> None:
        world = World(tmp_path)
        connection, transport = world.connect("")
        assert transport.written.startswith(b"+OK")
        end(connection)
        preamble = Preamble(ip_networks("127.0.0.1"), partial(Connection, world.server, False))
        transport = Transport("")
        preamble.connection_made(transport)
        assert isinstance(transport.protocol, Connection)
        end(transport.protocol)
        assert world.server.sessions == 0

    run(work)


def test_a_proxys_connection_becomes_its_clients(tmp_path: Path) -> None:
    async def work() -> None:
        world = World(tmp_path)
        preamble = Preamble(ip_networks("127.0.0.1"), partial(Connection, world.server, False))
        transport = Transport("127.0.0.1")
        preamble.connection_made(transport)
        for octet in to_wire("192.0.2.7", 1, "127.0.0.1", 2) + b"CAPA\r\n":
            protocol = transport.protocol or preamble
            assert isinstance(protocol, asyncio.Protocol)
            protocol.data_received(bytes((octet,)))
        assert isinstance(transport.protocol, Connection)
        assert (transport.protocol.address, transport.protocol.local) == ("192.0.2.7", False)
        assert transport.written.endswith(b".\r\n")
        end(transport.protocol)

    run(work)
