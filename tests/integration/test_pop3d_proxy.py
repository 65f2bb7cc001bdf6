"""pop3d behind a proxy: the client is whom the proxy names, and nobody else may name one."""

import socket
from pathlib import Path

import pytest

from services.pop3d import preamble
from services.pop3d.proxy import to_wire
from tests.support.pop3d import Client, serving

ONE = b"Subject: one\n\ntext\n"
PROXIES = 'proxies = ["127.0.0.2/32"]\nallow_plain = true\nallow_plain_loopback = false'


class Proxied(Client):
    """A client whose connection begins with ``header``."""

    def __init__(self, port: int, header: bytes, *, tls: bool = False, source: str = "127.0.0.2") -> None:
        self._header = header
        super().__init__(port, tls=tls, source=source)

    def line(self) -> bytes:
        if self._header:
            self.send(self._header)
            self._header = b""
        return super().line()

    def start_tls(self) -> None:
        if self._header:
            self.send(self._header)
            self._header = b""
        super().start_tls()


def header(address: str) -> bytes:
    return to_wire(address, 40_000, "::1" if ":" in address else "127.0.0.1", 110)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_the_client_is_whom_the_proxy_names(tmp_path: Path, address: str, tls: bool) -> None:
    with serving(tmp_path, PROXIES, ONE) as (server, _):
        with Proxied(server.tls_port if tls else server.port, header(address), tls=tls) as client:
            assert client.log_in(password=b"guess").startswith(b"-ERR [AUTH]")
            assert client.log_in().startswith(b"+OK")
        server.logged("refused", f"address={address} login=bob")
        server.logged("ended", f"address={address} ")


def test_what_is_sent_behind_the_header_is_the_clients(tmp_path: Path) -> None:
    words = header("192.0.2.7") + b"USER bob\r\nPASS open sesame\r\nSTAT\r\n"
    with serving(tmp_path, PROXIES, ONE) as (server, _), Proxied(server.port, words) as client:
        assert [client.line()[:4] for _ in range(3)] == [b"+OK ", b"+OK ", b"+OK "]


def test_limits_count_the_clients_address(tmp_path: Path) -> None:
    with (
        serving(tmp_path, f"{PROXIES}\nsessions_per_address = 1", ONE) as (server, _),
        Proxied(server.port, header("192.0.2.7")) as one,
        Proxied(server.port, header("192.0.2.8")) as other,
    ):
        assert one.greeting.startswith(b"+OK")
        assert other.greeting.startswith(b"+OK")
        with Proxied(server.port, header("192.0.2.7")) as second:
            assert second.greeting.startswith(b"-ERR [SYS/TEMP] Too many")


def test_a_client_that_is_not_on_this_machine_sends_no_password_in_the_clear(tmp_path: Path) -> None:
    proxies = 'proxies = ["127.0.0.2"]'
    with serving(tmp_path, proxies, ONE) as (server, _), Proxied(server.port, header("192.0.2.7")) as client:
        assert client.ask(b"USER bob").startswith(b"-ERR Passwords are taken under TLS only")


def test_from_anywhere_else_a_header_is_no_command(tmp_path: Path) -> None:
    with serving(tmp_path, PROXIES, ONE) as (server, _):
        with Proxied(server.port, header("192.0.2.7"), source="127.0.0.3") as client:
            assert client.greeting.startswith(b"+OK")
            assert client.line().startswith(b"-ERR Unknown command")
        server.logged("ended", "address=127.0.0.3 ")


@pytest.mark.parametrize("words", [b"CAPA\r\n", b"PROXY TCP4 192.0.2.7 127.0.0.1 4 110\r\n", b"\x16\x03\x01"])
def test_a_proxy_that_says_nothing_of_its_client_is_not_served(tmp_path: Path, words: bytes) -> None:
    with serving(tmp_path, PROXIES, ONE) as (server, _):
        with Proxied(server.port, words) as client:
            assert client.rest() == b""
        server.logged("refused", "proxy=127.0.0.2", "no PROXY header")


def test_a_proxy_that_keeps_silent_is_not_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, PROXIES, ONE) as (server, _):
        with socket.create_connection(("127.0.0.1", server.port), 20, ("127.0.0.2", 0)) as silent:
            assert silent.recv(100) == b""
        server.logged("refused", "no PROXY header in time")
    assert preamble.SECONDS <= 5
