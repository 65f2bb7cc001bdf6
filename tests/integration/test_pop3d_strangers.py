"""Clients that guess, dawdle, hang about or come in crowds, and what the server does with them."""

import select
import socket
import time
from pathlib import Path

import pytest

from tests.support.pop3d import Client, mbox, serving
from tests.support.waiting import wait_until

ONE = b"Subject: one\n\ntext\n"
WRONG = b"-ERR [AUTH] Authentication failed"


def test_wrong_passwords_cost_more_each_time_and_nobody_else_pays(tmp_path: Path) -> None:
    with serving(tmp_path, "failure_delay_seconds = 0.1", ONE) as (server, _):
        with Client(server.port, source="127.0.0.2") as guesser, Client(server.port) as other:
            times = []
            for _ in range(4):
                begin = time.monotonic()
                assert guesser.log_in(password=b"guess") == WRONG
                times.append(time.monotonic() - begin)
            assert all(seconds >= least for seconds, least in zip(times, (0.1, 0.19, 0.38, 0.7), strict=True))
            guesser.send(b"USER bob\r\nPASS guess\r\n")
            assert guesser.line().startswith(b"+OK")
            begin = time.monotonic()
            assert other.log_in().startswith(b"+OK")
            assert time.monotonic() - begin < 0.7
        line = server.logged("refused", "address=127.0.0.2 login=bob")
        assert "guess" not in line


def test_an_unknown_user_and_a_wrong_password_are_answered_alike(tmp_path: Path) -> None:
    with serving(tmp_path, "failure_delay_seconds = 0.0", ONE) as (server, _), Client(server.port) as client:
        assert client.ask(b"USER nobody") == client.ask(b"USER bob")
        assert client.log_in(b"nobody", b"x") == client.log_in(b"bob", b"x") == WRONG


def test_guesses_of_one_connection_come_to_an_end(tmp_path: Path) -> None:
    with serving(tmp_path, "failure_delay_seconds = 0.0", ONE) as (server, _), Client(server.port) as client:
        client.send(b"USER bob\r\nPASS guess\r\n" * 50)
        assert client.rest().count(WRONG) == 10
        client.socket.close()
        server.logged("ended", "too many errors")


def test_a_trickle_of_octets_does_not_put_off_the_login_deadline(tmp_path: Path) -> None:
    with serving(tmp_path, "login_seconds = 0.4", ONE) as (server, _), Client(server.port) as client:
        begin = time.monotonic()
        client.socket.settimeout(0.02)
        with pytest.raises((ConnectionError, EOFError)):
            while time.monotonic() - begin < 10:
                client.send(b"CAPA\r\n" if len(server.lines) % 2 else b"C")
                try:
                    if not client.socket.recv(1000):
                        raise EOFError
                except TimeoutError:
                    continue
        server.logged("ended", "not logged in in time")


def test_an_idle_session_ends_without_a_word_or_a_deletion_and_frees_the_maildrop(tmp_path: Path) -> None:
    with serving(tmp_path, "idle_seconds = 0.3", ONE) as (server, path), Client(server.port) as client:
        client.log_in()
        assert client.ask(b"DELE 1").startswith(b"+OK")
        assert client.rest() == b""  # RFC 1939 §3
        server.logged("ended", "reason=idle")
        assert path.read_bytes() == mbox(ONE)
        with Client(server.port) as other:
            assert other.log_in().startswith(b"+OK")


def test_a_client_that_takes_nothing_is_not_waited_for(tmp_path: Path) -> None:
    large = b"x" * 76 + b"\n"
    with serving(tmp_path, "write_seconds = 0.3", large * 200_000) as (server, _), Client(server.port) as client:
        client.log_in()
        client.send(b"RETR 1\r\n" * 3)
        server.logged("ended", 'reason="takes nothing"')
        with Client(server.port) as other:
            assert other.log_in().startswith(b"+OK")


def test_a_slow_client_that_takes_something_is_served(tmp_path: Path) -> None:
    stored = (b"x" * 76 + b"\n") * 30_000
    patience = "write_seconds = 0.5\nidle_seconds = 0.5"
    with serving(tmp_path, patience, stored) as (server, _), Client(server.port, receive_buffer=8192) as client:
        client.log_in()
        client.send(b"RETR 1\r\nQUIT\r\n")
        received, end = 0, time.monotonic() + 2
        while time.monotonic() < end:
            received += len(client.socket.recv(4096))
            select.select([], [], [], 0.02)
        assert received < len(stored)
        assert received + len(client.rest()) > len(stored)
        server.logged("ended", "reason=quit")


def test_strangers_who_only_hold_a_place_make_room(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "sessions = 3", ONE) as (server, _),
        Client(server.port) as known,
        Client(server.port) as oldest,
        Client(server.port) as other,
    ):
        known.log_in()
        with Client(server.port) as newcomer:
            assert newcomer.greeting.startswith(b"+OK")
            assert oldest.rest() == b""
            assert other.ask(b"CAPA").startswith(b"+OK")
            assert known.ask(b"NOOP") == b"+OK"


def test_when_all_places_are_taken_by_users_the_next_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, "sessions = 1", ONE) as (server, _), Client(server.port) as known:
        known.log_in()
        with Client(server.port) as newcomer:
            assert newcomer.greeting == b"-ERR [SYS/TEMP] Too many sessions, try again later"
            assert newcomer.rest() == b""
        known.ask(b"QUIT")
        known.rest()
        wait_until(lambda: greeting(server.port).startswith(b"+OK"))


def greeting(port: int) -> bytes:
    with Client(port) as client:
        return client.greeting


def test_a_reset_in_the_middle_of_anything_frees_the_maildrop(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE * 1000) as (server, path):
        for words in (b"", b"RETR 1\r\n" * 100, b"DELE 1\r\n", b"XYZZY\r\n" * 5):
            with Client(server.port) as client:
                assert client.log_in().startswith(b"+OK"), words
                client.send(words)
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with Client(server.port) as client:
            assert client.log_in().startswith(b"+OK maildrop has 1 message")
        assert path.read_bytes() == mbox(ONE * 1000)
        assert not [line for line in server.lines if "defect" in line or "Traceback" in line]
