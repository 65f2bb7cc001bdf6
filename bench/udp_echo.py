"""The least a UDP server in Python can do: it sends back what it gets.

python -m bench.udp_echo {plain|asyncio|uvloop}
"""

import asyncio
import socket
import sys
from typing import cast

import uvloop


def _plain(listener: socket.socket) -> None:
    receive, send = listener.recvfrom, listener.sendto
    while True:
        data, peer = receive(2048)
        send(data, peer)


class _Echo(asyncio.DatagramProtocol):
    _transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data, addr)


async def _asyncio(listener: socket.socket) -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(_Echo, sock=listener)
    await asyncio.Event().wait()


def main() -> None:
    """Echo until somebody ends it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        print(f"listening address=127.0.0.1:{listener.getsockname()[1]}", flush=True)
        if sys.argv[1] == "plain":
            _plain(listener)
        listener.setblocking(False)
        run = uvloop.run if sys.argv[1] == "uvloop" else asyncio.run
        run(_asyncio(listener))


if __name__ == "__main__":
    main()
