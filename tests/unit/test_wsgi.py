"""Serving WSGI: a port that cannot be had is one sentence."""

import os
import socket

import pytest

from stubmail import wsgi
from stubmail.errors import Exit
from tests.support.ports import need_ipv6


def test_a_port_in_use_says_which() -> None:
    with wsgi.bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(Exit, match=f"cannot listen on 127.0.0.1:{port}: Address already in use") as caught:
            wsgi.bind("127.0.0.1", port)
    assert caught.value.status == os.EX_UNAVAILABLE


def test_an_address_of_another_machine() -> None:
    with pytest.raises(Exit, match="Cannot assign requested address"):
        wsgi.bind("192.0.2.1", 0)


def test_ipv6_where_there_is_any() -> None:
    need_ipv6()
    with wsgi.bind("::1", 0) as listener:
        assert listener.family is socket.AF_INET6
