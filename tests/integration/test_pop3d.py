"""pop3d over TCP: whole sessions, the lock, what comes and fails in between, and clients that misbehave."""

import base64
import contextlib
import hmac
import os
import poplib
import signal
import threading
import time
from pathlib import Path

import pytest

from services.pop3d.mbox_maildrop import MboxLocation
from stubmail.mbox import Delivery, Mbox
from tests.support.pop3_dialogs import Dialog, check_answer, load_dialogs
from tests.support.pop3d import ARGON2ID, FROM, Client, Pop3d, mbox, serving

ONE, TWO = b"Subject: one\n\n.hidden\n", b"Subject: two\n\n1\n2\n"


def test_a_whole_session_with_poplib(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE, TWO) as (server, path):
        client = poplib.POP3("127.0.0.1", server.port, timeout=20)
        assert "STLS" in client.capa()
        client.user("bob@beta.example")
        client.pass_("open sesame")
        assert client.stat() == (2, 47)
        assert client.list()[1] == [b"1 25", b"2 22"]
        assert [line.split()[0] for line in client.uidl()[1]] == [b"1", b"2"]
        assert client.retr(1)[1] == [b"Subject: one", b"", b".hidden"]
        assert client.top(2, 1)[1] == [b"Subject: two", b"", b"1"]
        client.dele(1)
        client.quit()
        assert path.read_bytes() == mbox(TWO)
        line = server.logged("ended", "reason=quit")
        assert "user=bob mechanism=USER address=127.0.0.1 tls=False" in line
        assert "retr=1/25 top=1 dele=1/2 size=47" in line
        assert "open sesame" not in "".join(server.lines)


def ports_of(dialog: Dialog) -> list[str]:
    """Which kinds of port a dialog can be had on; CAPA and STLS say which one it is."""
    if "tls" in dialog.options:
        return ["tls"]
    clear_only = len(dialog.parts) > 1 or b"CAPA\r\n" in dialog.parts[0].lines
    return ["clear"] if clear_only else ["clear", "tls"]


DIALOGS = [
    pytest.param(dialog, port == "tls", id=f"{dialog.name}-{port}")
    for dialog in load_dialogs()
    if not dialog.options & {"commit fails", "no certificate", "secrets"}
    for port in ports_of(dialog)
]


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory):
    """Two servers for all dialogs: one takes passwords in the clear from its own machine, the other does not."""
    trusting, strict = tmp_path_factory.mktemp("trusting"), tmp_path_factory.mktemp("strict")
    settings, more = "failure_delay_seconds = 0.0", "allow_plain_loopback = false"
    with (
        serving(trusting, settings, password=ARGON2ID) as one,
        serving(strict, f"{settings}\n{more}", password=ARGON2ID) as other,
    ):
        yield {False: one, True: other}


@pytest.mark.parametrize("pipelined", [False, True], ids=["line by line", "pipelined"])
@pytest.mark.parametrize(("dialog", "tls"), DIALOGS)
def test_dialogs(replay: dict[bool, tuple[Pop3d, Path]], dialog: Dialog, tls: bool, pipelined: bool) -> None:
    server, path = replay["remote" in dialog.options]
    stored = [message.replace(b"\r\n", b"\n") for message in dialog.messages]
    path.write_bytes(mbox(*stored))
    holder = MboxLocation(path).open() if "in use" in dialog.options else None
    with Client(server.tls_port if tls else server.port, tls=tls) as client:
        for number, part in enumerate(dialog.parts):
            if number:
                client.start_tls()
            replay_part(client, part.lines, part.answers, pipelined)
        if dialog.closed:
            assert client.rest() == b""
    if holder:
        holder.close()


def replay_part(client: Client, lines: list[bytes], answers: list[list], pipelined: bool) -> None:
    if pipelined:
        client.send(b"".join(lines))
    for line, expected in zip(lines, answers, strict=True):
        if not pipelined:
            client.send(line)
        answer = [client.line() for _ in expected]
        check_answer(b"".join(one + b"\r\n" for one in answer), expected, repr(line))


def test_without_quit_nothing_is_deleted_and_the_lock_is_gone(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE, TWO) as (server, path):
        with Client(server.port) as client:
            client.log_in()
            assert client.ask(b"DELE 1").startswith(b"+OK")
        with Client(server.port) as client:
            assert client.log_in() == b"+OK maildrop has 2 messages (47 octets)"
        assert path.read_bytes() == mbox(ONE, TWO)


def test_kill_9_of_the_server_deletes_nothing_and_leaves_no_lock(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE, TWO) as (server, path), Client(server.port) as client:
        client.log_in()
        before = client.ask_lines(b"UIDL")
        client.ask(b"DELE 1")
        server.process.kill()
        assert client.rest() == b""
        assert path.read_bytes() == mbox(ONE, TWO)
    with serving(tmp_path, "") as (server, _), Client(server.port) as client:
        client.log_in()
        assert client.ask_lines(b"UIDL") == before


def test_a_second_session_is_told_that_the_maildrop_is_in_use(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, _), Client(server.port) as first, Client(server.port) as second:
        assert first.log_in().startswith(b"+OK")
        assert second.log_in() == b"-ERR [IN-USE] Another session has the maildrop open"
        assert first.ask(b"QUIT").startswith(b"+OK")
        assert second.log_in().startswith(b"+OK")


def test_a_delivery_during_a_session_is_not_blocked_and_is_seen_by_the_next(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, path):
        with Client(server.port) as client:
            client.log_in()
            Mbox(path).deliver([Delivery("1", "a@b.example", 0.0, b"Subject: new\r\n\r\n")])
            assert client.ask(b"STAT") == b"+OK 1 25"
            client.ask(b"DELE 1")
            assert client.ask(b"QUIT").startswith(b"+OK")
        with Client(server.port) as client:
            client.log_in()
            assert client.ask_lines(b"RETR 1") == [b"+OK 16 octets", b"Subject: new", b""]


def test_a_quit_that_cannot_delete_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, path), Client(server.port) as client:
        client.log_in()
        client.ask(b"DELE 1")
        path.rename(tmp_path / "aside")
        path.mkdir()
        assert client.ask(b"QUIT") == b"-ERR [SYS/TEMP] Nothing was deleted, try again later"
        assert client.rest() == b""
        assert (tmp_path / "aside").read_bytes() == mbox(ONE)
        server.logged("failed", "what=deletion")


@pytest.mark.parametrize("change", ["cut", "replaced"])
def test_the_rest_of_a_message_is_never_passed_off_as_the_whole(tmp_path: Path, change: str) -> None:
    with serving(tmp_path, "", ONE, TWO) as (server, path), Client(server.port) as client:
        client.log_in()
        if change == "cut":
            os.truncate(path, path.stat().st_size - 4)
        else:
            path.rename(tmp_path / "aside")
            path.write_bytes(mbox(ONE, TWO))
        assert client.ask(b"RETR 2") == b"-ERR [SYS/TEMP] The message is not there any more, or not as it was"
        assert client.ask(b"NOOP") == b"+OK"


def test_eight_bits_nul_and_long_lines_go_out_as_they_are(tmp_path: Path) -> None:
    stored = b"Subject: caf\xc3\xa9\n\n\xff\x00\x1a\n" + b"x" * 1_000_000 + b"\n.\n..\nlast"
    with serving(tmp_path, "", stored) as (server, _), Client(server.port) as client:
        client.log_in()
        status, *lines = client.ask_lines(b"RETR 1")
        assert status == b"+OK %d octets" % (len(stored) + stored.count(b"\n") + 2)
        assert [line.removeprefix(b".") for line in lines] == stored.split(b"\n")
        assert lines[-3:] == [b"..", b"...", b"last"]


def test_memory_does_not_grow_with_a_message(tmp_path: Path) -> None:
    size = 96 << 20
    with serving(tmp_path, "", ONE) as (server, path), Client(server.port) as client:
        client.log_in()
        client.ask(b"RETR 1")
        client.send(b"QUIT\r\n")
        client.rest()
        before = server.peak_memory()
        with path.open("ab") as file:
            file.write(FROM + b"Subject: huge\n\n")
            for _ in range(size // (1 << 20)):
                file.write((b"." + b"x" * 62 + b"\n") * (1 << 14))
            file.write(b"\n")
        with Client(server.port) as other:
            other.log_in()
            other.send(b"RETR 2\r\n")
            received = 0
            tail = b""
            while not tail.endswith(b"\r\n.\r\n"):
                data = other.socket.recv(1 << 20)
                received += len(data)
                tail = (tail + data)[-5:]
        assert received > size + 2 * size // 64
        assert server.peak_memory() - before < 24 << 20


def test_hundreds_of_commands_in_one_write_are_answered_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, "", *([ONE, TWO] * 100)) as (server, path), Client(server.port) as client:
        retrievals = b"".join(b"RETR %d\r\nNOOP\r\n" % number for number in range(1, 201))
        client.send(b"USER bob\r\nPASS open sesame\r\n" + retrievals + b"DELE 200\r\nSTAT\r\nQUIT\r\n")
        answer = client.rest()
        subjects = [line for line in answer.split(b"\r\n") if line.startswith(b"Subject")]
        assert subjects == [b"Subject: one", b"Subject: two"] * 100
        assert answer.endswith(b"+OK 199 4678\r\n+OK stubmail POP3 server signing off\r\n")
        assert path.read_bytes() == mbox(*([ONE, TWO] * 99), ONE)


def test_a_client_that_sends_much_and_reads_nothing_is_held_back_and_served_in_the_end(tmp_path: Path) -> None:
    count = 200_000
    with serving(tmp_path, "", ONE) as (server, _), Client(server.port) as client:
        client.log_in()
        before = server.peak_memory()
        writer = threading.Thread(target=client.send, args=(b"LIST 1\r\n" * count + b"QUIT\r\n",))
        writer.start()
        with Client(server.port) as other:
            assert other.ask(b"CAPA").startswith(b"+OK")
        answer = client.rest()
        writer.join()
        assert answer.count(b"+OK 1 25\r\n") == count
        assert server.peak_memory() - before < 16 << 20


def test_a_client_that_has_said_all_gets_all_its_answers(tmp_path: Path) -> None:
    with serving(tmp_path, "", ONE) as (server, _), Client(server.port) as client:
        client.send(b"USER bob\r\nPASS open sesame\r\nRETR 1\r\nDELE 1\r\n")
        client.socket.shutdown(1)
        assert client.rest().endswith(b"..hidden\r\n.\r\n+OK message 1 deleted\r\n")
        server.logged("ended", "hung up", "dele=0/1")


def send_until_hung_up(client: Client, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.send(data)


@pytest.mark.parametrize("flood", [b"A" * 1_000_000, b"PASS " + b"x" * 1_000_000 + b"\r\n", b"XYZZY\r\n" * 100_000])
def test_a_flood_is_answered_and_ended(tmp_path: Path, flood: bytes) -> None:
    with serving(tmp_path, "", ONE) as (server, _), Client(server.port) as client:
        writer = threading.Thread(target=send_until_hung_up, args=(client, flood * 20))
        writer.start()
        assert client.rest().startswith(b"-ERR ")
        client.socket.close()
        writer.join()
        with Client(server.port) as other:
            assert other.log_in().startswith(b"+OK")


def test_an_interrupt_stops_the_server_like_a_term(tmp_path: Path) -> None:
    with serving(tmp_path, "") as (server, _):
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0


def test_messages_that_may_not_stay_go_at_quit_and_only_then(tmp_path: Path) -> None:
    old = FROM + ONE + b"\n"
    now = b"From a@b.example " + time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime()).encode() + b"\n" + TWO + b"\n"
    with serving(tmp_path, "expire_days = 30") as (server, path):
        path.write_bytes(old + now)
        with Client(server.port) as client:
            client.log_in()
            assert b"EXPIRE 30" in client.ask_lines(b"CAPA")
        assert path.read_bytes() == old + now
        with Client(server.port) as client:
            assert client.log_in().startswith(b"+OK maildrop has 2 messages")
            assert client.ask(b"QUIT").startswith(b"+OK")
        server.logged("ended", "reason=quit", "dele=1/2")
        assert path.read_bytes() == now


def test_a_message_that_could_not_be_sent_does_not_count_as_retrieved(tmp_path: Path) -> None:
    with serving(tmp_path, "expire_days = 0", ONE, TWO) as (server, path), Client(server.port) as client:
        client.log_in()
        path.write_bytes(mbox(ONE.replace(b"one", b"eno"), TWO))
        assert client.ask(b"RETR 1").startswith(b"-ERR [SYS/TEMP]")
        assert len(client.ask_lines(b"RETR 2")) == 5
        assert client.ask(b"QUIT").startswith(b"+OK")
        assert path.read_bytes() == mbox(ONE.replace(b"one", b"eno"))


def test_a_user_who_comes_back_too_soon_is_told_so(tmp_path: Path) -> None:
    with serving(tmp_path, "login_delay_seconds = 3600", ONE) as (server, _):
        with Client(server.port) as client:
            assert b"LOGIN-DELAY 3600" in client.ask_lines(b"CAPA")
            assert client.log_in().startswith(b"+OK")
            assert b"LOGIN-DELAY 3600" in client.ask_lines(b"CAPA")
            client.ask(b"QUIT")
        with Client(server.port) as client:
            assert client.log_in() == b"-ERR [LOGIN-DELAY] Too soon after the last login"
            assert client.ask(b"STAT") == b"-ERR Not now"


def test_apop_and_cram_md5_with_poplib_and_by_hand(tmp_path: Path) -> None:
    with serving(tmp_path, "allow_plain_loopback = false", ONE) as (server, _):
        client = poplib.POP3("127.0.0.1", server.port, timeout=20)
        assert client.capa()["SASL"] == ["SCRAM-SHA-256", "CRAM-MD5"]
        assert client.apop("bob", "open sesame").startswith(b"+OK")
        client.quit()
        with Client(server.port) as one, Client(server.port) as other:
            assert one.greeting != other.greeting
            challenge = base64.b64decode(one.ask(b"AUTH CRAM-MD5").removeprefix(b"+ "))
            digest = hmac.new(b"open sesame", challenge, "md5").hexdigest().encode()
            assert other.ask(b"AUTH CRAM-MD5").startswith(b"+ ")
            assert other.ask(base64.b64encode(b"bob " + digest)).startswith(b"-ERR [AUTH]"), (
                "good for one challenge only"
            )
            assert one.ask(base64.b64encode(b"bob " + digest)).startswith(b"+OK")
        server.logged("ended", "mechanism=APOP")
        server.logged("ended", "mechanism=CRAM-MD5")
        assert "open sesame" not in "".join(server.lines)
