"""popcl and servers that lie, stall, hang up, send without end or smuggle: nothing is lost, trusted or overwritten."""

import base64
import hashlib
import itertools
import os
import socket
import stat
from pathlib import Path

import pytest

from commands.popcl.names import variant
from tests.support.pop3d import CERT
from tests.support.popcl import Popcl
from tests.support.scripted_pop3 import Reply, ScriptedPop3, endless, maildrop, multi

ONE = b"Message-ID: <1@x>\r\n\r\none\r\n"
TWO = b"Message-ID: <2@x>\r\n\r\ntwo\r\n"
THREE = b"Message-ID: <3@x>\r\n\r\nthree\r\n"
FOREVER = itertools.repeat(b"x" * 65_536)


@pytest.fixture
def client(tmp_path: Path) -> Popcl:
    return Popcl(tmp_path)


@pytest.mark.parametrize(
    ("greeting", "status", "text"),
    [
        (b"+OK " + b"x" * 4096, 76, "line of more than"),
        (b"-ERR [SYS/TEMP] \x1b[2Jbusy\r\n", 75, "sends us away: [SYS/TEMP] ?[2Jbusy"),
        (b"-ERR come back later\r\n", 75, "sends us away: come back later"),
        (b"220 mail.example ESMTP\r\n", 76, "no status line but '220 mail"),
        (b"\x16\x03\x01\0\0\r\n", 76, "no status line"),
        (b"+OK\r\n+OK\r\n+OK\r\n", 76, "nobody has asked for"),
        (b"", 75, "keeps us waiting for too long"),
    ],
)
def test_greetings(client: Popcl, greeting: bytes, status: int, text: str) -> None:
    with ScriptedPop3(greeting=greeting) as server:
        run = client.run(server.port, "--timeout", "1")
    assert (run.status, run.output) == (status, "")
    assert text in run.errors
    assert "PASS" not in str(server.commands)
    assert client.files() == {}


@pytest.mark.parametrize(
    ("replies", "status", "text"),
    [
        ({b"USER": b"-ERR [AUTH] not in the clear\r\n"}, 77, "does not let us in: [AUTH] not in the clear"),
        ({b"PASS": b"-ERR\r\n"}, 77, "does not let us in: -ERR"),
        ({b"PASS": b"-ERR [IN-USE] locked\r\n"}, 75, "not let us in now: [IN-USE] locked"),
        ({b"PASS": b"-ERR [login-delay] wait\r\n"}, 75, "not let us in now"),
        ({b"PASS": None}, 75, "closed the connection"),
        ({b"PASS": b"+OK" + b" " * 9000}, 76, "line of more than"),
        ({b"CAPA": endless(itertools.chain([b"+OK\r\n"], itertools.repeat(b"X\r\n")))}, 76, "list has more than"),
        ({b"CAPA": endless(itertools.chain([b"+OK\r\n"], FOREVER))}, 76, "list has"),
        ({b"STAT": b"-ERR\r\n"}, 69, "refuses STAT"),
        ({b"STAT": b"+OK 99999999 1\r\n"}, 76, "announces 99999999 messages"),
        ({b"STAT": b"+OK -1 1\r\n"}, 76, "answer to STAT"),
        ({b"STAT": b"+OK 2 1\r\n"}, 76, "fewer messages than the 2"),
        ({b"LIST": multi(b"1 1", b"2 1")}, 76, "list has more than 1 lines"),
        ({b"LIST": multi(b"2 1")}, 76, "other messages than the 1"),
        ({b"LIST": multi(b"1 99999999999999999999")}, 76, "other messages than the 1"),
        ({b"UIDL": multi(b"7 a")}, 76, "other unique-ids"),
        ({b"UIDL": endless(itertools.chain([b"+OK\r\n"], FOREVER))}, 76, "list has"),
    ],
)
def test_before_the_first_message(client: Popcl, replies: dict[bytes, Reply], status: int, text: str) -> None:
    with ScriptedPop3(maildrop(ONE) | replies) as server:
        run = client.run(server.port)
    assert (run.status, run.output) == (status, "")
    assert text in run.errors
    assert run.errors.count("\n") == 1
    assert b"RETR" not in server.verbs()
    assert client.files() == {}


def test_a_message_without_an_end_is_cut_off_by_the_size_that_was_announced(client: Popcl) -> None:
    reply = endless(itertools.chain([b"+OK\r\n" + TWO], FOREVER))
    with ScriptedPop3(maildrop(ONE, TWO) | {b"RETR 2": reply}) as server:
        run = client.run(server.port, "-d")
    assert (run.status, run.output) == (76, "1 message downloaded, 0 deleted\n")
    assert "message 2 is larger than the server announced" in run.errors
    assert client.files() == {"1@x": ONE}
    assert b"DELE" not in server.verbs()


@pytest.mark.parametrize("stall", [True, False])
def test_an_end_in_the_middle_of_a_message_keeps_the_whole_ones(client: Popcl, stall: bool) -> None:
    half = b"+OK\r\n" + TWO[:-3]
    reply: Reply = half if stall else lambda connection: connection.sendall(half)
    with ScriptedPop3(maildrop(ONE, TWO, THREE) | {b"RETR 2": reply}) as server:
        run = client.run(server.port, "-d", "--timeout", "1")
    assert (run.status, run.output) == (75, "1 message downloaded, 0 deleted\n")
    assert ("keeps us waiting" if stall else "closed the connection") in run.errors
    assert client.files() == {"1@x": ONE}
    assert b"DELE" not in server.verbs()


def test_a_message_that_the_server_refuses_is_said_and_not_deleted(client: Popcl) -> None:
    with ScriptedPop3(maildrop(ONE, TWO, THREE) | {b"RETR 2": b"-ERR \x07broken\r\n"}) as server:
        run = client.run(server.port, "-d")
    assert (run.status, run.output) == (75, "2 messages downloaded, 2 deleted\n")
    assert "the server refuses message 2: ?broken\n" in run.errors
    assert client.files() == {"1@x": ONE, "3@x": THREE}
    assert [command for command in server.commands if command.startswith(b"DELE")] == [b"DELE 1", b"DELE 3"]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"-ERR [SYS/TEMP] disk full\r\n", "may have deleted nothing: [SYS/TEMP] disk full"),
        (None, "closed the connection"),
        (b"", "keeps us waiting"),
    ],
)
def test_nothing_is_said_to_be_deleted_without_an_answer_to_quit(client: Popcl, reply: Reply, text: str) -> None:
    with ScriptedPop3(maildrop(ONE) | {b"QUIT": reply}) as server:
        run = client.run(server.port, "-d", "--timeout", "1")
    assert (run.status, run.output) == (75, "1 message downloaded, 0 deleted\n")
    assert text in run.errors
    assert client.files() == {"1@x": ONE}


def test_a_message_that_the_server_does_not_delete(client: Popcl) -> None:
    with ScriptedPop3(maildrop(ONE, TWO) | {b"DELE 1": b"-ERR no\r\n"}) as server:
        run = client.run(server.port, "-d")
    assert (run.status, run.output) == (75, "2 messages downloaded, 1 deleted\n")
    assert "does not delete message 1: no" in run.errors


def test_messages_are_on_disk_before_the_first_one_is_deleted(client: Popcl, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bool, list[bytes]]] = []
    fsync = os.fsync
    with ScriptedPop3(maildrop(ONE, TWO)) as server:

        def watch(descriptor: int) -> None:
            is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            synced.append((is_directory, server.commands[-1:]))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", watch)
        assert client.run(server.port, "-d").status == 0
    assert {is_directory for is_directory, commands in synced if commands == []} == {True}  # the new directory's parent
    assert [each for each in synced if each[1]] == [(False, [b"RETR 1"]), (False, [b"RETR 2"]), (True, [b"RETR 2"])]
    assert server.verbs()[-3:] == [b"DELE", b"DELE", b"QUIT"]


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        (b"<../../x>", "%2E%2E%2F.%2E%2Fx"),
        (b"</etc/passwd>", "%2Fetc%2Fpasswd"),
        (b"<.bashrc>", "%2Ebashrc"),
        (b"<..>", "%2E%2E"),
        (b"<a\0b>", "a%00b"),
        (b"<-rf>", "%2Drf"),
        (b"<~root>", "%7Eroot"),
        (b"<\xff\xfe>", "%FF%FE"),
    ],
)
def test_names_that_would_lead_elsewhere(client: Popcl, identifier: bytes, name: str) -> None:
    message = b"Message-ID: " + identifier + b"\r\n\r\n\0\r\n"
    with ScriptedPop3(maildrop(message)) as server:
        assert client.run(server.port).status == 0
    assert client.files() == {name: message}
    assert sorted(path.name for path in client.out.parent.iterdir()) == ["auth", "out"]


def test_a_very_long_name(client: Popcl) -> None:
    messages = [b"Message-ID: <" + b"/" * 30_000 + end + b">\r\n\r\n" for end in (b"a", b"b")]
    with ScriptedPop3(maildrop(*messages)) as server:
        assert client.run(server.port).output == "2 messages downloaded\n"
        assert client.run(server.port, "-n").output == "0 new messages downloaded\n"
    assert sorted(client.files().values()) == messages


def test_two_messages_of_one_name_are_both_kept_and_known_again(client: Popcl) -> None:
    forged = ONE.replace(b"one", b"forged")
    files = {"1@x": ONE, variant("1@x", hashlib.sha256(forged).hexdigest()): forged}
    with ScriptedPop3(maildrop(ONE, forged, ONE)) as server:
        for options, said in (
            (["-n"], "2 new messages downloaded\n"),
            (["-n"], "0 new messages downloaded\n"),
            ([], "3 messages downloaded\n"),
            (["-n", "-d"], "0 new messages downloaded, 3 deleted\n"),
        ):
            run = client.run(server.port, *options)
            assert (run.status, run.output) == (0, said)
            assert client.files() == files


def test_what_is_to_be_deleted_is_compared_not_believed(client: Popcl) -> None:
    client.out.mkdir()
    (client.out / "1@x").write_bytes(b"came under this name before")
    with ScriptedPop3(maildrop(ONE)) as server:
        assert client.run(server.port, "-n").output == "0 new messages downloaded\n"
        assert client.run(server.port, "-n", "-d").output == "1 new message downloaded, 1 deleted\n"
    assert sorted(client.files().values()) == [ONE, b"came under this name before"]


def test_new_ones_are_found_without_top_too(client: Popcl) -> None:
    with ScriptedPop3(maildrop(ONE, TWO)) as server:
        client.out.mkdir()
        (client.out / "1@x").write_bytes(ONE)
        assert client.run(server.port, "-n").output == "1 new message downloaded\n"
    assert server.verbs().count(b"TOP") == 1
    assert client.files() == {"1@x": ONE, "2@x": TWO}


def test_new_ones_are_asked_for_by_their_headers_alone(client: Popcl) -> None:
    tops: dict[bytes, Reply] = {
        b"TOP 1 0": multi(b"Message-ID: <1@x>", b""),
        b"TOP 2 0": multi(b"Message-ID: <2@x>", b""),
    }
    with ScriptedPop3(maildrop(ONE, TWO) | tops) as server:
        client.out.mkdir()
        (client.out / "1@x").write_bytes(ONE)
        assert client.run(server.port, "-n").output == "1 new message downloaded\n"
        assert [command for command in server.commands if command.startswith(b"RETR")] == [b"RETR 2"]


def test_a_server_that_knows_the_least_will_do(client: Popcl) -> None:
    replies = maildrop(ONE, b"no header\r\n")
    del replies[b"LIST"]
    with ScriptedPop3(replies) as server:
        assert client.run(server.port, "-d").output == "2 messages downloaded, 2 deleted\n"
    name = "sha256=" + hashlib.sha256(b"no header\r\n").hexdigest()
    assert client.files() == {"1@x": ONE, name: b"no header\r\n"}


def test_commands_go_ahead_of_their_replies_where_the_server_can_and_only_there(client: Popcl) -> None:
    messages = [b"Message-ID: <%d@x>\r\n\r\n" % number for number in range(100)]
    replies = maildrop(*messages)
    both = b"".join(b"+OK\r\n" + message + b".\r\n" for message in messages[:2])
    late: dict[bytes, Reply] = {b"RETR 1": b"", b"RETR 2": both}  # the first is answered with the second
    with ScriptedPop3(replies | late | {b"CAPA": multi(b"PIPELINING")}) as server:
        assert client.run(server.port, "-d").output == "100 messages downloaded, 100 deleted\n"
    assert client.files() == {f"{number}@x": message for number, message in enumerate(messages)}
    with ScriptedPop3(replies | late) as server:
        assert client.run(server.port, "--timeout", "1").status == 75
    assert server.commands[-1] == b"RETR 1"


def test_octets_behind_the_answer_to_stls_are_refused(client: Popcl) -> None:
    replies: dict[bytes, Reply] = {b"STLS": lambda connection: connection.sendall(b"+OK\r\n+OK injected\r\n+OK\r\n")}
    with ScriptedPop3(maildrop(ONE) | replies) as server:
        run = client.run(server.port, "-S", "-c", str(CERT))
    assert (run.status, run.output) == (76, "")
    assert "in the clear behind the answer to STLS" in run.errors
    assert server.commands == [b"STLS"]


def test_stls_that_is_refused_is_not_gone_without(client: Popcl) -> None:
    with ScriptedPop3(maildrop(ONE)) as server:
        run = client.run(server.port, "-S", "-c", str(CERT))
    assert (run.status, run.output) == (69, "")
    assert "does not do STLS" in run.errors
    assert server.commands == [b"STLS"]


def test_what_was_said_before_stls_is_asked_again(client: Popcl) -> None:
    with ScriptedPop3(maildrop(ONE) | {b"STLS": b"+OK\r\n"}) as server:
        assert client.run(server.port, "-S", "-c", str(CERT)).status == 0
    assert server.verbs()[:4] == [b"STLS", b"CAPA", b"USER", b"PASS"]


def test_a_server_without_tls_behind_pop3s(client: Popcl) -> None:
    with ScriptedPop3(maildrop(ONE)) as server:
        run = client.run(server.port, "-T", "-c", str(CERT))
    assert (run.status, run.output) == (69, "")
    assert "no TLS with localhost" in run.errors
    assert server.verbs() == [] or b"PASS" not in server.verbs()


def test_a_certificate_for_another_host(client: Popcl) -> None:
    with ScriptedPop3(maildrop(ONE), tls=True) as server:
        assert client.run(server.port, "-T", "-c", str(CERT), host="127.0.0.1").status == 0
        run = client.run(server.port, "-T", "-c", str(CERT), host="127.0.0.2")
    assert run.status in (75, 77)  # 75: this machine has no such address
    assert len([verb for verb in server.verbs() if verb == b"PASS"]) == 1


def test_plain_is_used_under_tls_where_user_is_not_offered(client: Popcl) -> None:
    response = base64.b64encode(b"\0bob\0open sesame")

    def plain(connection: socket.socket) -> None:
        connection.sendall(b"+ \r\n")
        assert connection.recv(1000) == response + b"\r\n"
        connection.sendall(b"-ERR [SYS/TEMP] later\r\n")

    with ScriptedPop3({b"CAPA": multi(b"SASL PLAIN"), b"AUTH PLAIN": plain}, tls=True) as server:
        run = client.run(server.port, "-T", "-c", str(CERT))
    assert (run.status, server.commands) == (75, [b"CAPA", b"AUTH PLAIN"])


def test_a_server_that_takes_part_in_scram_without_the_password_never_hears_it(client: Popcl) -> None:
    for last in (b"+OK welcome\r\n", b"+ " + base64.b64encode(b"v=QQ==") + b"\r\n"):

        def scram(connection: socket.socket, last: bytes = last) -> None:
            lines = connection.makefile("rb")
            with lines:
                connection.sendall(b"+ \r\n")
                first = base64.b64decode(lines.readline()).partition(b"r=")[2]
                challenge = b"r=%bserver,s=c2FsdHNhbHQ=,i=4096" % first
                connection.sendall(b"+ " + base64.b64encode(challenge) + b"\r\n")
                lines.readline()
                connection.sendall(last)

        with ScriptedPop3({b"CAPA": multi(b"SASL SCRAM-SHA-256"), b"AUTH": scram}) as server:
            run = client.run(server.port)
        assert (run.status, run.output) == (76, "")
        assert server.verbs() == [b"CAPA", b"AUTH"]


def test_who_will_not_bind_the_login_to_the_connection_never_hears_the_password(client: Popcl) -> None:
    capabilities = multi(b"USER", b"SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN")
    for refused, last, warned in (
        (b"-ERR the channel is another one\r\n", [b"AUTH SCRAM-SHA-256"], True),
        (b"-ERR [AUTH] wrong\r\n", [], False),
    ):
        replies = {b"CAPA": capabilities, b"AUTH SCRAM-SHA-256-PLUS": refused, b"AUTH SCRAM-SHA-256": b"-ERR no\r\n"}
        with ScriptedPop3(replies, tls=True) as server:
            run = client.run(server.port, "-T", "-c", str(CERT))
        assert server.commands == [b"CAPA", b"AUTH SCRAM-SHA-256-PLUS", *last]
        assert (run.status, "does not bind the login" in run.errors) == (77, warned)


def test_apop_and_what_follows_when_it_is_refused(client: Popcl) -> None:
    greeting = b"+OK ready <1896.697170952@dbc.mtview.ca.us>\r\n"
    digest = hashlib.md5(b"<1896.697170952@dbc.mtview.ca.us>open sesame").hexdigest().encode()
    with ScriptedPop3(maildrop(ONE) | {b"APOP bob " + digest: b"+OK\r\n"}, greeting) as server:
        assert client.run(server.port).status == 0
    assert b"PASS" not in server.verbs()
    with ScriptedPop3(maildrop(ONE), greeting) as server:
        assert client.run(server.port).status == 0
    assert server.verbs()[:4] == [b"CAPA", b"APOP", b"USER", b"PASS"]
    with ScriptedPop3(maildrop(ONE) | {b"APOP": b"-ERR [IN-USE] x\r\n"}, greeting) as server:
        assert client.run(server.port).status == 75
    assert server.verbs() == [b"CAPA", b"APOP"]


def test_hosts_and_ports_that_nobody_answers_at(client: Popcl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    run = client.run(port, host="127.0.0.1")
    assert (run.status, run.output) == (75, "")
    assert f"cannot connect to 127.0.0.1:{port}: Connection refused" in run.errors
    for host in ("a" * 70 + ".example", ".example", "a b"):
        run = client.run(port, host=host)
        assert run.status in (68, 75), host  # 75: the resolver does not answer


def test_command_lines_that_contradict_themselves(client: Popcl) -> None:
    for options in (["-T", "-S"], ["-c", "x"], ["-C", "x"], ["-p", "0"], ["-p", "65536"], ["-x"], ["--timeout", "nan"]):
        run = client.run(110, *options)
        assert (run.status, run.output) == (os.EX_USAGE, ""), options
        assert "Usage: popcl" in run.errors
    for host in ("", ".", "[]"):
        assert client.run(110, "-T", host=host).status == os.EX_USAGE
    assert not client.out.exists()


def test_files_that_are_missing_or_wrong(client: Popcl, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no certificate")
    for options, text in (
        (["-c", "none"], "cannot read none: No such file"),
        (["-c", str(tmp_path / "text")], "holds no certificate in PEM"),
        (["-C", "none"], "cannot read none: No such file"),
        (["-C", str(tmp_path / "empty")], "holds no certificates"),
        (["-a", "none"], "cannot read the auth file none"),
    ):
        run = client.run(110, "-T", *options)
        assert (run.status, run.output) == (66, ""), run.errors
        assert text in run.errors
    client.auth.write_text("bob:secret\n")
    assert client.run(110).status == 78
    client.auth.write_text("username = bob\npassword = secret\n")
    client.out.write_text("a file")
    run = client.run(110)
    assert (run.status, run.output) == (73, "")
    client.auth.chmod(0o644)
    assert "others may read" in client.run(110).errors
