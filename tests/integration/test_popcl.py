"""popcl with pop3d and with Dovecot: in the clear, with STLS and POP3S; -n and -d; crashes in the middle."""

import itertools
import os
import pty
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands.popcl import __main__ as program
from commands.popcl import connection
from tests.support.dovecot import dovecot
from tests.support.pop3d import CERT, ROOT, TLS, mbox, serving
from tests.support.popcl import Popcl
from tests.support.scripted_pop3 import ScriptedPop3, maildrop
from tests.support.waiting import wait_until

MESSAGES = [
    b"From: alice@alpha.example\nMessage-ID: <1@x>\nSubject: one\n\n.hidden\n..\n.\nend\n",
    b"From: alice@alpha.example\nMessage-ID:\n <../../2/\\x>\nSubject: caf\xc3\xa9\n\nna\xefve \xff \0\n",
    b"From: alice@alpha.example\nSubject: without\n\n" + b"x" * 50_000 + b"\n",
    b"From: alice@alpha.example\nMessage-ID: <4@x>\n\n",
]
NAMES = ["1@x", "%2E%2E%2F.%2E%2F2%2F%5Cx", re.compile("uidl%3D|uidl=.+"), "4@x"]


class Server:
    """What a test has to know of a running server."""

    def __init__(self, port: int, tls_port: int, left: Callable[[], list[bytes]]) -> None:
        self.port = port
        self.tls_port = tls_port
        self.left = left

    def fetch(self, client: Popcl, kind: str, *options: str):
        if kind == "clear":
            return client.run(self.port, *options)
        if kind == "pop3s":
            return client.run(self.tls_port, "-T", "-c", str(CERT), *options)
        return client.run(self.port, "-S", "-C", str(TLS), *options)


@pytest.fixture(params=["pop3d", "dovecot"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    if request.param == "dovecot":
        with dovecot("plain scram-sha-256") as running:
            running.put(*MESSAGES)
            yield Server(running.port, running.tls_port, running.left)
        return
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server", "", *MESSAGES) as (process, path):
        rest = {mbox(*MESSAGES[start:]): MESSAGES[start:] for start in (0, len(MESSAGES))}
        yield Server(process.port, process.tls_port, lambda: rest[path.read_bytes()])


@pytest.fixture
def client(tmp_path: Path) -> Popcl:
    return Popcl(tmp_path)


def check_files(client: Popcl) -> None:
    """All messages are there, each in one file, octet by octet as they were sent."""
    files = client.files()
    wire = [message.replace(b"\n", b"\r\n") for message in MESSAGES]
    assert sorted(files.values()) == sorted(wire)
    for name, content in zip(NAMES, wire, strict=True):
        [found] = [each for each in files if files[each] == content]
        assert re.fullmatch(name, found) if isinstance(name, re.Pattern) else found == name


@pytest.mark.parametrize("kind", ["clear", "stls", "pop3s"])
def test_fetch_fetch_new_ones_and_delete(server: Server, client: Popcl, kind: str) -> None:
    first = server.fetch(client, kind)
    assert (first.status, first.output, first.errors) == (0, "4 messages downloaded\n", "")
    check_files(client)
    again = server.fetch(client, kind, "-n")
    assert (again.status, again.output) == (0, "0 new messages downloaded\n")
    (client.out / "4@x").unlink()
    one = server.fetch(client, kind, "-n")
    assert (one.status, one.output) == (0, "1 new message downloaded\n")
    assert sorted(server.left()) == sorted(MESSAGES)
    (client.out / "4@x").unlink()
    deleted = server.fetch(client, kind, "-n", "-d")
    assert (deleted.status, deleted.output) == (0, "1 new message downloaded, 4 deleted\n")
    assert server.left() == []
    check_files(client)
    nothing = server.fetch(client, kind, "-d")
    assert (nothing.status, nothing.output) == (0, "0 messages downloaded, 0 deleted\n")


def test_fetching_twice_changes_nothing(server: Server, client: Popcl) -> None:
    for options, said in (((), "4 messages downloaded\n"), (("-d",), "4 messages downloaded, 4 deleted\n")):
        run = server.fetch(client, "clear", *options)
        assert (run.status, run.output) == (0, said)
        check_files(client)
    assert server.left() == []


def test_a_wrong_password_and_a_certificate_that_nobody_vouches_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "eve").mkdir()
    wrong = Popcl(tmp_path / "eve", "guess")
    run = server.fetch(wrong, "pop3s")
    assert (run.status, run.output) == (77, "")
    assert "the server does not let us in: " in run.errors
    assert "guess" not in run.errors
    run = wrong.run(server.tls_port, "-T")
    assert (run.status, run.output) == (77, "")
    assert "is not to be trusted" in run.errors
    run = wrong.run(server.port, "-S", "-c", str(TLS / "renewed.cert.pem"))
    assert (run.status, run.output) == (77, "")
    assert wrong.files() == {}


def test_check_counts_and_fetches_nothing(server: Server, client: Popcl) -> None:
    run = server.fetch(client, "stls", "--check")
    assert (run.status, run.output) == (0, "4 messages at the server\n")
    assert client.files() == {}


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["stls", "pop3s"])
def test_the_login_is_bound_to_the_tls_connection(
    tmp_path: Path, client: Popcl, kind: str, newest: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited(file: Path | None, directory: Path | None) -> ssl.SSLContext:
        context = connection.tls_context(file, directory)
        context.maximum_version = newest
        return context

    monkeypatch.setattr(program, "tls_context", limited)
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server", "", *MESSAGES) as (process, _):
        run = Server(process.port, process.tls_port, list).fetch(client, kind)
        assert (run.status, run.errors) == (0, "")
        process.logged("ended", "mechanism=SCRAM-SHA-256-PLUS")


@pytest.mark.parametrize("mechanisms", ["plain", "plain apop", "plain scram-sha-256"])
def test_dovecot_hears_the_password_only_where_nothing_better_is_offered(client: Popcl, mechanisms: str) -> None:
    with dovecot(mechanisms) as running:
        running.put(*MESSAGES)
        assert client.run(running.port).status == 0
        check_files(client)
        how = {"plain": "PLAIN", "plain apop": "APOP", "plain scram-sha-256": "SCRAM-SHA-256"}[mechanisms]
        wait_until(lambda: f"method={how}," in running.log.read_text())


def test_the_progress_bar_is_for_terminals(client: Popcl) -> None:
    message = b"Message-ID: <1@x>\r\n\r\nbody\r\n"
    ours, theirs = pty.openpty()
    with ScriptedPop3(maildrop(message)) as server:
        command = [sys.executable, "-m", "commands.popcl", *client.arguments(server.port)]
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True)
        finally:
            os.close(theirs)
        shown = os.read(ours, 65_536)
        os.close(ours)
        assert done.stdout == b"1 message downloaded\n"
        assert b"100%" in shown
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)
        assert (done.stdout, done.stderr) == (b"1 message downloaded\n", b"")


def test_verbose_says_what_happened_but_not_the_password(client: Popcl) -> None:
    with ScriptedPop3(maildrop(b"Message-ID: <1@x>\r\n\r\n")) as server:
        command = [sys.executable, "-m", "commands.popcl", *client.arguments(server.port, "-v")]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stderr
    assert "logged in by=USER tls=False" in said
    assert "1 stored file=1@x size=21 announced=21" in said
    assert "sesame" not in said


def test_a_large_message_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    peaks = []
    for size in (1, 40):
        directory = tmp_path / str(size)
        directory.mkdir()
        client = Popcl(directory)
        message = b"Message-ID: <large@x>\r\n\r\n" + b"x" * 2**20 * size + b"\r\n"
        with ScriptedPop3(maildrop(message)) as server:
            program = (
                "import re; from commands.popcl.__main__ import main; main(standalone_mode=False);"
                "print(re.search('VmHWM:\\s*(.*) kB', open('/proc/self/status').read())[1])"
            )
            command = [sys.executable, "-c", program, *client.arguments(server.port, "-d")]
            said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
        count, peak = said.splitlines()
        assert count == "1 message downloaded, 1 deleted"
        assert client.files() == {"large@x": message}
        peaks.append(int(peak))
    assert peaks[1] - peaks[0] < 4096, peaks  # KiB


@pytest.mark.parametrize("options", [("-d",), ("-d", "-n")])
def test_killed_in_the_middle_it_leaves_whole_messages_and_the_server_as_it_was(
    client: Popcl, options: tuple[str, ...]
) -> None:
    messages = [b"Message-ID: <%d@x>\r\n\r\nbody\r\n" % number for number in range(5)]
    replies = maildrop(*messages)
    half = b"+OK\r\n" + messages[3][:-4]
    with ScriptedPop3(replies | {b"RETR 4": half}) as server:
        command = [sys.executable, "-m", "commands.popcl", *client.arguments(server.port, *options)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            wait_until(lambda: b"RETR 4" in server.commands)
            process.send_signal(signal.SIGKILL)
        assert client.files() == {f"{number}@x": messages[number] for number in range(3)}
        assert b"DELE" not in server.verbs()
        server.replies[b"RETR 4"] = replies[b"RETR 4"]
        run = client.run(server.port, *options)
    new = "2 new messages" if "-n" in options else "5 messages"
    assert (run.status, run.output) == (0, f"{new} downloaded, 5 deleted\n")
    assert client.files() == {f"{number}@x": message for number, message in enumerate(messages)}


# popcl that kills itself before step number argv[1] of those that others can see: names, syncs, and what it sends.
KILLED = """
import os, signal, socket, sys
left = int(sys.argv.pop(1))

def counted(function):
    def call(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **options)
    return call

for name in ("fsync", "link", "rename", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
socket.socket.sendall = counted(socket.socket.sendall)
if os.environ.get("NAMED"):
    from commands.popcl import out_dir
    from pathlib import Path
    out_dir._PROC = Path("/nowhere")
from commands.popcl.__main__ import main
main()
"""


@pytest.mark.parametrize("named", ["", "1"])
def test_killed_at_every_step_it_loses_nothing_and_leaves_no_half_message(tmp_path: Path, named: str) -> None:
    messages = {f"{number}@x": b"Message-ID: <%d@x>\r\n\r\nbody\r\n" % number for number in range(2)}
    environ = {**os.environ, "NAMED": named}
    for step in itertools.count():
        directory = tmp_path / str(step)
        directory.mkdir()
        client = Popcl(directory)
        with ScriptedPop3(maildrop(*messages.values())) as server:
            command = [sys.executable, "-c", KILLED, str(step), *client.arguments(server.port, "-d")]
            done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, timeout=60, check=False)
            files = client.files() if client.out.exists() else {}
            whole = {name: content for name, content in files.items() if not name.startswith(".popcl-")}
            assert whole.items() <= messages.items()
            if {b"DELE", b"QUIT"} & set(server.verbs()):
                assert whole == messages
            run = client.run(server.port, "-d")
            assert (run.status, run.output) == (0, "2 messages downloaded, 2 deleted\n")
            assert client.files() == messages
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert step > 14
