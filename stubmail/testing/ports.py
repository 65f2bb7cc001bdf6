"""Loopback ports for servers that have to know theirs beforehand, and may come back to them."""

import contextlib
import random
import socket

LOOPBACK = "127.0.0.1"
# Below those that Linux gives to whoever asks for any port, so that no connection takes one while its server is down.
_RANGE = range(16_384, 32_768)

_random = random.SystemRandom()  # several processes look for ports at the same time


def free_ports(count: int) -> list[int]:
    """Return ports that are free for TCP and UDP at this moment, all different."""
    found: list[int] = []
    for port in _random.sample(_RANGE, len(_RANGE)):
        if len(found) == count:
            return found
        if _is_free(port):
            found.append(port)
    raise OSError("there are not enough free ports on this machine")


def _is_free(port: int) -> bool:
    with contextlib.ExitStack() as stack:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if kind == socket.SOCK_STREAM else 0)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                return False
    return True
