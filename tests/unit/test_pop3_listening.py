"""Listening sockets."""

import asyncio
import os
import socket

import pytest

from services.pop3d.listening import bind, name_of, peer_of
from stubmail.errors import Exit
from tests.support.ports import need_ipv6


def accepts(bound: socket.socket, address: str) -> bool:
    bound.listen()
    try:
        with socket.create_connection((address, bound.getsockname()[1]), 5):
            return True
    except OSError:
        return False


def test_a_port_is_taken_and_named() -> None:
    [bound] = bind("127.0.0.1", 0)
    with bound:
        assert name_of(bound) == f"127.0.0.1:{bound.getsockname()[1]}"
        assert bound.getsockname()[1] > 0
        assert bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_ipv6_wildcard_is_for_ipv4_too_and_any_other_ipv6_address_is_not() -> None:
    need_ipv6()
    [everywhere], [loopback] = bind("::", 0), bind("::1", 0)
    with everywhere, loopback:
        assert accepts(everywhere, "127.0.0.1")
        assert accepts(everywhere, "::1")
        assert accepts(loopback, "::1")
        assert not accepts(loopback, "127.0.0.1")
        assert name_of(loopback).startswith("[::1]:")


def test_what_cannot_be_had_is_an_exit_and_nothing_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Exit) as caught:
        bind("127.0.0.1", taken.getsockname()[1])
    assert caught.value.status == os.EX_UNAVAILABLE
    with pytest.raises(Exit, match=r"cannot listen on 192\.0\.2\.1:110"):
        bind("192.0.2.1", 110)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("2001:db8::1", 1, 0, 0), "2001:db8::1"),
        (("::ffff:0:1", 1, 0, 0), "::ffff:0:1"),
        (None, "local"),
    ],
)
def test_a_peer_is_called_by_the_address_that_it_has(peer: object, address: str) -> None:
    assert peer_of(asyncio.BaseTransport({"peername": peer})) == address
