"""What a connection still has to deliver."""

import asyncio
import socket

from services.pop3d.channel import Channel
from tests.support.waiting import wait_until


class Transport(asyncio.Transport):
    """One that has given all to its socket."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__({"socket": connected})

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


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
