"""Clients that guess, dawdle, hang about, talk nonsense, break off or come in crowds, and what becomes of them."""

import base64
import contextlib
import random
import select
import signal
import socket
import time
from pathlib import Path

import pytest

from stubmail.passwords import hash_password
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
            # A failure counts for less as time passes, on a busy machine too.
            assert all(seconds >= least for seconds, least in zip(times, (0.09, 0.15, 0.25, 0.4), strict=True))
            guesser.send(b"USER bob\r\nPASS guess\r\n")
            assert guesser.line().startswith(b"+OK")
            begin = time.monotonic()
            assert other.log_in().startswith(b"+OK")
            assert time.monotonic() - begin < 1.2, "the other's delay"
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
    with serving(tmp_path, "idle_seconds = 1.0", ONE) as (server, path), Client(server.port) as client:
        client.log_in()
        assert client.ask(b"DELE 1").startswith(b"+OK")
        assert client.rest() == b""  # RFC 1939 §3
        server.logged("warning - doubtful", "idle_seconds is 1, and clients may count on 600")
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
    patience = "write_seconds = 1.0\nidle_seconds = 1.0"
    with serving(tmp_path, patience, stored) as (server, _), Client(server.port, receive_buffer=8192) as client:
        client.log_in()
        client.send(b"RETR 1\r\nQUIT\r\n")
        received, end = 0, time.monotonic() + 3
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


# Malformed requests

SEED = 20261121


def nonsense(random: random.Random) -> bytes:
    """A line that a broken client might send, or one that means harm."""
    words = [
        b"USER",
        b"PASS",
        b"AUTH",
        b"APOP",
        b"RETR",
        b"LIST",
        b"TOP",
        b"LANG",
        b"UTF8",
        b"CAPA",
        b"",
        b"\0",
        b"%s%n",
        b"../" * 9,
    ]
    words += [
        b"1",
        b"-1",
        b"1_0",
        b"\xff\xfe",
        b"PLAIN",
        b"=",
        b"*",
        b"LOGIN",
        b"CRAM-MD5",
        b"SCRAM-SHA-256",
        b"biws",
        b"'; --",
    ]
    line = random.choice([b" ", b"  ", b"\t"]).join(random.choices(words, k=random.randrange(6)))
    if random.random() < 0.3:
        line = random.randbytes(random.randrange(40)).replace(b"\n", b"")
    return line + random.choice([b"\r\n", b"\r\n", b"\n", b"\r\r\n"])


def test_malformed_requests_are_answered_and_harm_nothing(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    with serving(tmp_path, "failure_delay_seconds = 0.0", ONE) as (server, path):
        for number in range(150):
            with Client(server.port, tls=False) as client:
                if number % 2:
                    client.log_in()
                client.send(b"".join(nonsense(chance) for _ in range(chance.randrange(1, 30))))
                with contextlib.suppress(OSError):  # it may have hung up already
                    client.socket.shutdown(socket.SHUT_WR)
                assert client.rest()[:3] in (b"", b"+OK", b"-ER", b"+ \r")
        with Client(server.port) as client:
            assert client.log_in().startswith(b"+OK maildrop has 1 message")
        assert path.read_bytes() == mbox(ONE)
        assert not [line for line in server.lines if "defect" in line or "Traceback" in line]


def test_what_was_never_pop3_is_turned_away(tmp_path: Path) -> None:
    hello = bytes.fromhex("16030100c8010000c40303") + b"\0" * 300
    with serving(tmp_path, "", ONE) as (server, _):
        for words in (
            b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\nC: d\r\nE: f\r\n" + b"G: h\r\n" * 20,
            hello,
            b"EHLO x\r\n" * 20,
        ):
            with Client(server.port) as client:
                client.send(words)
                assert client.rest().endswith((b"-ERR Unknown command\r\n", b"-ERR Line too long\r\n"))


# Very long requests

LONG = [
    b"x" * 1_000_000,
    b"USER " + b"x" * 1_000_000 + b"\r\n",
    b"USER bob\r\nPASS " + b"x" * 300 + b"\r\n",
    b"APOP " + b"x" * 300 + b" 0\r\n",
    b"AUTH PLAIN " + b"A" * 20_000 + b"\r\n",
    b"AUTH PLAIN\r\n" + b"A" * 20_000 + b"\r\n",
    b"AUTH LOGIN\r\nYm9i\r\n" + b"A" * 20_000 + b"\r\n",
    b"AUTH SCRAM-SHA-256 " + b"A" * 20_000 + b"\r\n",
]


@pytest.mark.parametrize("words", LONG, ids=[words[:12].decode().strip() for words in LONG])
def test_a_request_that_is_too_long_ends_its_session_alone(tmp_path: Path, words: bytes) -> None:
    with serving(tmp_path, "", ONE) as (server, _), Client(server.port) as other, Client(server.port) as client:
        with contextlib.suppress(ConnectionError):  # the server may have hung up before all was sent
            client.send(words)
        assert client.rest().endswith(b"-ERR Line too long\r\n")
        client.socket.close()
        assert other.log_in().startswith(b"+OK")
        server.logged("ended", "line too long")


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, _), Client(server.port) as client:
        before = server.peak_memory()
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                client.send(b"A" * (1 << 20))
        client.rest()
        assert server.peak_memory() - before < 8 << 20


# Failures in the middle of a transaction


def test_a_connection_that_breaks_at_any_place_deletes_nothing(tmp_path: Path) -> None:
    words = b"USER bob\r\nPASS open sesame\r\nDELE 1\r\nLIST\r\nRETR 2\r\nQUIT"
    with serving(tmp_path, "sessions_per_address = 1000", ONE, ONE) as (server, path):
        for end in range(0, len(words) + 1, 3):
            with Client(server.port) as client:
                client.send(words[:end])
                if end % 2:
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        wait_until(lambda: sum(" ended " in line for line in server.lines) == len(range(0, len(words) + 1, 3)))
        assert path.read_bytes() == mbox(ONE, ONE)
        with Client(server.port) as client:
            assert client.log_in().startswith(b"+OK maildrop has 2 messages")


def test_a_quit_that_was_received_counts_though_nobody_hears_the_answer(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE, ONE) as (server, path):
        with Client(server.port) as client:
            client.log_in()
            client.send(b"DELE 1\r\nQUIT\r\n")
        server.logged("ended", "dele=1/2")
        assert path.read_bytes() == mbox(ONE)


def test_a_users_file_that_breaks_while_sessions_go_on_breaks_none(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, _), Client(server.port) as client:
        client.log_in()
        server.users.write_text("[")
        server.process.send_signal(signal.SIGHUP)
        server.logged("not-reloaded")
        assert client.ask(b"STAT").startswith(b"+OK 1")
        assert client.ask(b"QUIT").startswith(b"+OK")


# Password attacks


def test_an_attack_is_detected_logged_and_slowed_by_every_way_in(tmp_path: Path) -> None:
    plain = base64.b64encode(b"\0bob\0guess")
    ways = [b"USER bob\r\nPASS guess", b"APOP bob " + b"0" * 32, b"AUTH PLAIN " + plain, b"AUTH CRAM-MD5\r\nYm9iIDA="]
    with serving(tmp_path, "failure_delay_seconds = 0.005\nfailure_delay_longest = 0.1", ONE) as (server, _):
        begin = time.monotonic()
        for number in range(12):
            with Client(server.port, source=f"127.0.0.{number + 2}") as client:
                client.send(ways[number % len(ways)] + b"\r\nQUIT\r\n")
                assert WRONG in client.rest()
        assert time.monotonic() - begin > 0.005 * (1 + 2 + 4 + 8 + 16) + 7 * 0.1 * 0.8
        line = server.logged("warning", "attacked by=login")
        assert "login=bob" in line
        assert {part for line in server.lines for part in line.split() if part.startswith("mechanism=")} == {
            "mechanism=USER", "mechanism=APOP", "mechanism=PLAIN", "mechanism=CRAM-MD5"
        }  # fmt: skip
        assert "guess" not in "".join(server.lines)
        with Client(server.port) as client:
            begin = time.monotonic()
            assert client.log_in().startswith(b"+OK")
            assert time.monotonic() - begin < 1


def test_an_unknown_user_and_a_wrong_password_take_the_same_time(tmp_path: Path) -> None:
    """Measured in turns, with the hash that is in real use; the quickest of each must not tell them apart."""
    with serving(tmp_path, "failure_delay_seconds = 0.0", ONE, password=hash_password("open sesame")) as (server, _):
        times: dict[bytes, list[float]] = {b"bob": [], b"nobody": []}
        for _ in range(6):
            for name, measured in times.items():
                with Client(server.port) as client:
                    begin = time.monotonic()
                    assert client.log_in(name, b"guess") == WRONG
                    measured.append(time.monotonic() - begin)
        one, other = map(min, times.values())  # what else the machine does only makes it slower
        assert one / 2 < other < one * 2
        assert min(one, other) > 0.005


# Clients that never close


def test_who_says_quit_and_stays_is_hung_up_on(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, _), Client(server.port) as client:
        client.log_in()
        client.send(b"QUIT\r\n")
        assert client.rest().endswith(b"signing off\r\n")
        server.logged("ended", "reason=quit")


def test_a_hundred_that_keep_silent_keep_nobody_out(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as silent:
        server, _ = stack.enter_context(serving(tmp_path, "sessions = 50\nlogin_seconds = 20", ONE))
        for _ in range(100):
            silent.enter_context(Client(server.port))
        with Client(server.port) as client:
            assert client.log_in().startswith(b"+OK")
