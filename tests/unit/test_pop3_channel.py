"""What is sent at once, what waits, and what a connection still has to deliver."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.pop3d.channel import Channel
from tests.support.waiting import wait_until


class Transport(asyncio.Transport):
    """One that has given all to its socket, but for ``waiting`` octets."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__({"socket": connected})
        self.waiting = b""
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.waiting += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)


@contextmanager
def connected() -> Iterator[tuple[Channel, Transport, socket.socket]]:
    """The server's side of a connection, and the client's."""
    server, client = socket.socketpair()
    with server, client:
        server.setblocking(False)
        transport = Transport(server)
        yield Channel(transport), transport, client


def received(client: socket.socket, octets: int) -> bytes:
    data = b""
    while len(data) < octets:
        data += client.recv(octets - len(data))
    return data


def test_what_the_kernel_takes_is_sent_at_once() -> None:
    with connected() as (channel, transport, client):
        channel.write(b"+OK\r\n")
        assert received(client, 5) == b"+OK\r\n"
        assert not transport.waiting
        assert channel.written == 5


def test_what_it_does_not_take_is_left_to_the_transport_and_nothing_overtakes_it() -> None:
    octets = bytes(range(256)) * 40_000
    with connected() as (channel, transport, client):
        channel.write(octets)
        sent = len(octets) - len(transport.waiting)
        assert 0 < sent < len(octets)
        assert received(client, sent) + transport.waiting == octets
        channel.write(b"more")  # which the kernel would take now
        assert transport.waiting == octets[sent:] + b"more"
        assert channel.written == len(octets) + 4


def test_of_a_connection_that_is_gone_the_transport_finds_out() -> None:
    with connected() as (channel, transport, client):
        client.close()
        channel.write(b"+OK\r\n")
        assert transport.waiting == b"+OK\r\n"


def test_behind_its_end_nothing_is_sent() -> None:
    with connected() as (channel, transport, client):
        transport.closing = True
        channel.write(b"+OK\r\n")
        assert not transport.waiting
        assert channel.written == 0
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_what_a_client_did_not_take_counts_until_it_has_reset_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with server:
        channel = Channel(Transport(server))
        assert channel.unsent() == 0
        server.setblocking(False)
        try:
            while True:
                server.send(b"x" * 65_536)
        except BlockingIOError:
            pass
        assert channel.unsent() > 0
        client.close()  # with octets unread, that is a reset
        wait_until(lambda: channel.unsent() == 0)
