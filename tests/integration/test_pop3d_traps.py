"""What has caught other POP3 servers, most of them written in Python: each trap once, over TCP."""

import contextlib
import fcntl
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from services.pop3d.mbox_maildrop import MboxLocation
from tests.support.pop3d import FROM, Client, mbox, serving

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""
ONE, TWO = b"Subject: one\n\ntext\n", b"Subject: two\n\nmore\n"
NUMBERS = [
    b"1_0",
    b"+1",
    b"-1",
    b"\xd9\xa1",
    "\u00b2".encode(),
    b"0",
    b"1.0",
    b"0x1",
    b"1e0",
    b"\t1",
    b"18446744073709551617",
]
SEPARATORS = [
    b"\x0b",
    b"\x0c",
    b"\x1c",
    b"\x1d",
    b"\x1e",
    b"\x85",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xe2\x80\xa9",
    b"\xa0",
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory):
    """A server for tests that leave its maildrop as it was."""
    settings = "failure_delay_seconds = 0.0"
    with serving(tmp_path_factory.mktemp("traps"), settings, ONE, TWO) as running:
        yield running


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("command", [b"DELE %b", b"RETR %b", b"LIST %b", b"UIDL %b", b"TOP %b 0", b"TOP 1 %b"])
def test_what_int_takes_for_a_number_names_no_message(shared, command: bytes, number: bytes) -> None:
    if command == b"TOP 1 %b" and number == b"0":
        return
    server, path = shared
    with Client(server.port) as client:
        client.log_in()
        assert client.ask(command % number).startswith(b"-ERR")
        assert client.ask(b"STAT").startswith(b"+OK 2 ")
        assert client.ask(b"QUIT").startswith(b"+OK")
    assert path.read_bytes() == mbox(ONE, TWO)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_what_python_splits_at_is_neither_a_space_nor_the_end_of_a_line(shared, separator: bytes) -> None:
    server, _ = shared
    with Client(server.port) as client:
        assert client.ask(b"USER nobody" + separator + b"USER bob").startswith(b"+OK")
        assert client.ask(b"PASS open sesame").startswith(b"-ERR [AUTH]")
        assert client.log_in(password=b"open sesame" + separator).startswith(b"-ERR [AUTH]")
        assert client.log_in().startswith(b"+OK")
        assert client.ask(b"DELE" + separator + b"1").startswith(b"-ERR Unknown command")
        assert client.ask(b"TOP 1" + separator + b"0").startswith(b"-ERR")
        assert client.ask(b"NOOP" + separator + b"DELE 1").startswith(b"-ERR")
        assert client.ask(b"STAT").startswith(b"+OK 2 ")


@pytest.mark.parametrize("separator", SEPARATORS)
def test_nor_in_a_message(tmp_path: Path, separator: bytes) -> None:
    stored = b"Subject: a" + separator + b".b\n\n" + separator + b".\n" + separator + b"\n"
    with serving(tmp_path, "", stored) as (server, _), Client(server.port) as client:
        client.log_in()
        head, *lines = client.ask_lines(b"RETR 1")
        assert b"".join(line + b"\r\n" for line in lines) == stored.replace(b"\n", b"\r\n")
        assert head == b"+OK %d octets" % (len(stored) + 4)
        assert len(client.ask_lines(b"TOP 1 1")) == 4


def test_the_rest_of_a_line_that_is_too_long_is_no_command(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE, TWO) as (server, path), Client(server.port) as client:
        client.log_in()
        client.send(b"NOOP " + b"x" * 251 + b"DELE 1\r\nDELE 2\r\nQUIT\r\n")
        assert client.rest() == b"-ERR Line too long\r\n"
        assert path.read_bytes() == mbox(ONE, TWO)


def test_a_login_that_takes_long_stalls_nobody(tmp_path: Path) -> None:
    """Neither a lock that another program holds, nor a mailbox that has to be read, is waited for by the others."""
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(b"".join(FROM + b"Subject: %d\n\ntext\n\n" % number for number in range(200_000)))
    small.write_bytes(mbox(ONE))
    with serving(tmp_path) as (server, _):
        text = server.users.read_text()
        server.users.write_text(
            text
            + "".join(
                f'[users.{one}]\npassword = "{{PLAIN}}x"\nmaildrop = "mbox:{tmp_path / one}"\n'
                for one in ("large", "small")
            )
        )
        server.process.send_signal(1)
        server.logged("- reloaded", "users.toml")
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(small)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with Client(server.port) as first, Client(server.port) as second, Client(server.port) as other:
                other.log_in()
                for client, name in ((first, b"small"), (second, b"large")):
                    client.ask(b"USER " + name)
                    client.send(b"PASS x\r\n")
                slowest, answered, started = 0.0, threading.Event(), time.monotonic()
                waiter = threading.Thread(target=lambda: (second.line(), answered.set()))
                waiter.start()
                while not answered.is_set():
                    begin = time.monotonic()
                    assert other.ask(b"NOOP") == b"+OK"
                    slowest = max(slowest, time.monotonic() - begin)
                waiter.join()
                assert slowest < max(1, (time.monotonic() - started) / 2), "a busy machine has them all wait"
                holder.communicate()
                assert first.line().startswith(b"+OK maildrop has 1 message")
        finally:
            with holder:
                holder.kill()


def test_reading_a_message_lets_no_deliverer_in_while_the_mbox_is_rewritten(tmp_path: Path) -> None:
    """A process loses its fcntl locks on a file when it closes any descriptor of it."""
    with serving(tmp_path, "", ONE, TWO) as (server, path), Client(server.port) as client:
        client.log_in()
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            client.send(b"DELE 1\r\nRETR 2\r\nQUIT\r\n")
            assert client.line() == b"+OK message 1 deleted"
            while client.line() != b".":
                pass
            assert path.read_bytes() == mbox(ONE, TWO), "QUIT waits for who holds the lock"
        assert client.line().startswith(b"+OK")
        assert path.read_bytes() == mbox(TWO)


def test_ids_do_not_move_when_the_first_of_two_twins_goes(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE, ONE, ONE) as (server, _):
        with Client(server.port) as client:
            client.log_in()
            before = [line.partition(b" ")[2] for line in client.ask_lines(b"UIDL")[1:]]
            assert len(set(before)) == 3
            client.ask(b"DELE 1")
            client.ask(b"QUIT")
            client.rest()
        with Client(server.port) as client:
            client.log_in()
            assert [line.partition(b" ")[2] for line in client.ask_lines(b"UIDL")[1:]] == before[1:]


def test_user_is_forgotten_at_stls(shared) -> None:
    server, _ = shared
    with Client(server.port) as client:
        client.ask(b"USER bob")
        assert client.ask(b"STLS").startswith(b"+OK")
        client.start_tls()
        assert client.ask(b"PASS open sesame") == b"-ERR Send USER first"
        assert client.log_in().startswith(b"+OK")


@pytest.mark.parametrize("line", [b"USER bob\0x", b"USER bob\0", b"USER \0bob"])
def test_a_nul_shortens_no_name(shared, line: bytes) -> None:
    server, _ = shared
    with Client(server.port) as client:
        client.ask(line)
        assert client.ask(b"PASS open sesame").startswith(b"-ERR [AUTH]")
        assert client.ask(b"APOP bob\0 " + b"0" * 32).startswith(b"-ERR [AUTH]")


@pytest.mark.parametrize("line", [b"STAT\0", b"\0STAT", b"DELE\0 1", b"DELE 1\0", b"QUIT\0 x"])
def test_a_nul_shortens_no_command(shared, line: bytes) -> None:
    server, path = shared
    with Client(server.port) as client:
        client.log_in()
        assert client.ask(line).startswith(b"-ERR")
        assert client.ask(b"QUIT").startswith(b"+OK")
    assert path.read_bytes() == mbox(ONE, TWO)


def test_a_full_stop_at_any_place_of_a_large_message_does_not_end_it(tmp_path: Path) -> None:
    """Stuffed piece by piece, a line that begins where a piece does would lose its full stop, or end the message."""
    for width in (1, 2, 63):
        line = b"." * width + b"\n"
        stored = b"Subject: x\n\n" + line * (400_000 // len(line)) + b".\n..\n"
        with serving(tmp_path, "", stored) as (server, path), Client(server.port) as client:
            path.write_bytes(mbox(stored))
            client.log_in()
            lines = client.ask_lines(b"RETR 1")[1:]
            assert b"\n".join(one[1:] if one.startswith(b".") else one for one in lines) + b"\n" == stored


def test_each_reply_leaves_at_once(shared) -> None:
    """Without TCP_NODELAY a reply in two writes waits 40 ms for the client's acknowledgement of the first."""
    server, _ = shared
    with Client(server.port) as client:
        client.log_in()
        times = []
        for command in [b"RETR 1", b"TOP 2 0"] * 50:
            begin = time.monotonic()
            client.ask_lines(command)
            times.append(time.monotonic() - begin)
        # The kernel acknowledges the first ones at once; a busy machine delays some of the others, not most of them.
        assert sorted(times[50:])[12] < 0.035


def test_ids_are_printable_and_stay_when_the_index_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "bob"
    path.write_bytes(mbox(ONE, TWO))
    found = []
    for _ in range(2):
        with contextlib.closing(MboxLocation(path).open()) as maildrop:
            found.append([maildrop.uid(index) for index in range(2)])
        Path(f"{path}.stub-index").unlink()
    assert found[0] == found[1]
    assert all(re.fullmatch(r"[\x21-\x7e]{1,70}", uid) for uid in found[0])
