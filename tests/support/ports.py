"""Loopback ports that nobody listens on."""

import contextlib
import socket

import pytest

from stubmail.testing.ports import free_ports

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a port that was free a moment ago; ask for port 0 instead wherever the port can be learned afterwards."""
    return free_ports(1)[0]


def need_ipv6() -> None:
    """Skip the test where there is no IPv6 loopback, as in many containers."""
    with contextlib.suppress(OSError):
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return
    pytest.skip("this machine has no IPv6 loopback")
