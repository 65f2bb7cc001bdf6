"""One question over UDP and its answer, for callers that can wait; a datagram may be lost, so it is asked twice."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

from stubmail.datagram import QUESTION_SIZE, DatagramError

PATIENCE = 1.0  # seconds for each try, protocol.md §6.7
TRIES = 2

T = TypeVar("T")


def ask(address: str, port: int, question: bytes, read: Callable[[bytes], T], patience: float = PATIENCE) -> T | None:
    """Send a question to an IP address and port and return what ``read`` makes of the answer, None when there is none.

    Only datagrams from that address and port are looked at. Those that ``read`` refuses by a DatagramError are passed
    over; when nothing better comes, the last such error is raised. Raises OSError when the peer cannot be reached.
    """
    refused: DatagramError | None = None
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        for _ in range(TRIES):
            client.send(question)
            end = time.monotonic() + patience
            while (left := end - time.monotonic()) > 0:
                client.settimeout(left)
                try:
                    return read(client.recv(QUESTION_SIZE + 1))
                except TimeoutError:
                    break
                except DatagramError as error:
                    refused = error
    if refused is not None:
        raise refused
    return None
