"""A UDP server on loopback that answers as a test says, in a thread of its own."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.support.ports import LOOPBACK

Answers = Callable[[bytes], Sequence[bytes]]


@dataclass
class UdpServer:
    """Where it answers, and what it was asked."""

    port: int
    asked: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def udp_server(answers: Answers) -> Iterator[UdpServer]:
    """Answer each datagram by those that ``answers`` returns, until the block ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((LOOPBACK, 0))
        server = UdpServer(listener.getsockname()[1])

        def serve() -> None:
            while True:
                data, peer = listener.recvfrom(2048)
                if not data:
                    return
                server.asked.append(data)
                for answer in answers(data):
                    listener.sendto(answer, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"", (LOOPBACK, server.port))
            thread.join()
