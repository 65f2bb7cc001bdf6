"""The socket for /livez, /readyz and /metrics, one for both processes."""

import socket

from stubmail.cli import parse_listen
from stubmail.listener import bind


def open_listener(where: str, descriptor: int | None) -> socket.socket | None:
    """Return the socket for the pages: inherited, or bound at HOST:PORT; None for an empty text. Raises Exit."""
    if descriptor is not None:
        listener = socket.socket(fileno=descriptor)
        listener.set_inheritable(False)
        return listener
    return bind(*parse_listen(where)) if where else None
