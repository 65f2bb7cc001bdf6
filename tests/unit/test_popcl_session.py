"""popcl's session and login against a connection that is none: time passes as the test likes."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from commands.popcl.connection import Connection, tls_context
from commands.popcl.login import log_in
from commands.popcl.protocol import Expect, ProtocolError
from commands.popcl.session import Limits, Session
from stubmail.auth_file import Credentials
from stubmail.errors import StubmailError, TemporaryError
from tests.support.pop3d import CERT, TLS

LIMITS = Limits(silence=10, reply=30, session=100)


class FakeConnection:
    """Hands out pieces, each after so many seconds."""

    encrypted = False
    is_loopback = False

    def __init__(self, *pieces: bytes, seconds: float = 0.0) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self._seconds = seconds
        self.now = 0.0
        self.sent = b""
        self.waits: list[float] = []

    def __str__(self) -> str:
        return "pop.example:110"

    def send(self, octets: bytes, timeout: float) -> None:
        assert 0 < timeout <= LIMITS.silence
        self.sent += octets

    def receive(self, timeout: float) -> bytes:
        self.waits.append(timeout)
        self.now += self._seconds
        return next(self._pieces)


def open_session(connection: FakeConnection) -> Session:
    return Session(cast(Connection, connection), LIMITS, lambda: connection.now)


def test_a_status_line_in_drops_is_not_waited_for_for_ever() -> None:
    connection = FakeConnection(*[b"+"] * 100, seconds=9)
    with pytest.raises(TemporaryError, match="for too long"):
        open_session(connection)
    assert connection.waits == [10, 10, 10, 3]


def test_a_message_in_drops_ends_with_the_session() -> None:
    connection = FakeConnection(b"+OK\r\n", b"+OK\r\n", *[b"x"] * 100, seconds=9)
    session = open_session(connection)
    [(_, status, pieces)] = [next(session.exchange("RETR", [1], Expect.LINES))]
    assert status.ok
    with pytest.raises(TemporaryError, match="more than 100 seconds"):
        list(pieces)
    assert connection.now == pytest.approx(108)


def test_what_is_left_of_a_reply_is_not_taken_for_the_next() -> None:
    connection = FakeConnection(b"+OK\r\n", b"+OK\r\na\r\n.\r\n+OK\r\nb\r\n.\r\n-ERR\r\n")
    session = open_session(connection)
    session.capabilities = {"PIPELINING": ()}
    numbers = [(number, status.ok) for number, status, _ in session.exchange("RETR", [4, 5, 6], Expect.LINES)]
    assert numbers == [(4, True), (5, True), (6, False)]
    assert connection.sent == b"RETR 4\r\nRETR 5\r\nRETR 6\r\n"


def test_a_reply_before_its_command_is_refused() -> None:
    session = open_session(FakeConnection(b"+OK\r\n+OK\r\n"))
    with pytest.raises(ProtocolError, match="nobody has asked"):
        session.command("NOOP")


@pytest.mark.parametrize(
    ("loopback", "capabilities", "warning"),
    [
        (True, b"-ERR\r\n", []),
        (False, b"-ERR\r\n", ["warning: the password goes to pop.example:110 in the clear; see -T and -S"]),
        (
            False,
            b"+OK\r\nSTLS\r\n.\r\n",
            ["warning: the password goes to pop.example:110 in the clear; -S would encrypt it"],
        ),
    ],
)
def test_a_password_in_the_clear_is_warned_about_unless_it_stays_here(
    loopback: bool, capabilities: bytes, warning: list[str]
) -> None:
    connection = FakeConnection(b"+OK\r\n", capabilities, b"+OK\r\n", b"+OK\r\n")
    connection.is_loopback = loopback
    session = open_session(connection)
    session.ask_capabilities()
    warnings: list[str] = []
    assert log_in(session, Credentials("bob", "open sesame"), warnings.append) == "USER"
    assert warnings == warning
    assert connection.sent == b"CAPA\r\nUSER bob\r\nPASS open sesame\r\n"


@pytest.mark.parametrize("reply", [b"-ERR not so\r\n", b"-ERR [SYS/TEMP]\r\n"])
def test_a_server_that_does_not_want_the_name_does_not_get_the_password(reply: bytes) -> None:
    connection = FakeConnection(b"+OK\r\n", reply)
    with pytest.raises(StubmailError):
        log_in(open_session(connection), Credentials("bob", "open sesame"), lambda _: None)
    assert b"sesame" not in connection.sent


def test_tls_is_verified_and_not_old(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(CERT.read_bytes())
    for context in (
        tls_context(None, None),
        tls_context(CERT, None),
        tls_context(None, TLS),
        tls_context(CERT, tmp_path),
    ):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    trusted = tls_context(None, tmp_path).get_ca_certs(binary_form=True)
    assert trusted == tls_context(CERT, None).get_ca_certs(binary_form=True)


def test_a_directory_in_the_form_of_c_rehash(tmp_path: Path) -> None:
    (tmp_path / "0123abcd.0").write_bytes(CERT.read_bytes())
    assert tls_context(None, tmp_path).get_ca_certs() == []  # they are looked for when they are needed
