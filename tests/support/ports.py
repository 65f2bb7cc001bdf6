"""Loopback ports that nobody listens on."""

import contextlib
import socket

import pytest

LOOPBACK = "127.0.0.1"


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that was free a moment ago; ask for port 0 instead wherever the port can be learned afterwards."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def need_ipv6() -> None:
    """Skip the test where there is no IPv6 loopback, as in many containers."""
    with contextlib.suppress(OSError):
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return
    pytest.skip("this machine has no IPv6 loopback")
