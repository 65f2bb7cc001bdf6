"""Loopback ports for servers that have to know theirs beforehand, and may come back to them."""

import contextlib
import os
import random
import socket
from collections import deque

LOOPBACK = "127.0.0.1"
# Below those that Linux gives to whoever asks for any port, so that no connection takes one while its server is down.
_RANGE = range(16_384, 32_768)
_CLAIMS = 64  # of a process; by the time it has more, the servers are there that the oldest were for

_random = random.SystemRandom()  # several processes look for ports at the same time
_claims: deque[int] = deque()


def free_ports(count: int) -> list[int]:
    """Return ports that are free for TCP and UDP at this moment, all different, and that nobody else was just given."""
    found: list[int] = []
    for port in _random.sample(_RANGE, len(_RANGE)):
        if len(found) == count:
            return found
        if _is_free(port) and _claim(port):
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


def _claim(port: int) -> bool:
    """Keep a port from other processes that look for one, until its server listens (unix(7), abstract names)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        try:
            claim.bind(f"\0stubmail port {port}")
        except OSError:
            return False
        _claims.append(claim.detach())
    if len(_claims) > _CLAIMS:
        os.close(_claims.popleft())
    return True
