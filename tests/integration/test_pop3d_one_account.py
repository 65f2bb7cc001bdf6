"""pop3d for one account, from flags alone: -a, -d, -p, -c, -r; dialogs over TCP."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.pop3d.settings import Pop3d
from tests.support.pop3d import ROOT, Client
from tests.support.waiting import wait_until

COMMAND = (sys.executable, "-m", "services.pop3d")
SETTINGS: dict[str, str] = {}  # in the environment, as STUBMAIL_POP3D_NAME
OLD, NEW = "1700000000.a.host", "1700000001.b.host"


@pytest.fixture
def auth(tmp_path: Path) -> Path:
    path = tmp_path / "auth.txt"
    path.write_text("username = bob\npassword = open sesame\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    path = tmp_path / "Maildir"
    for name in ("new", "cur", "tmp"):
        (path / name).mkdir(parents=True)
    (path / "cur" / f"{OLD}:2,S").write_bytes(b"Subject: one\n\ntext\n")
    (path / "new" / NEW).write_bytes(b"Subject: two\r\n\r\n.\r\n")
    return path


def environ(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), **SETTINGS}


def run(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run pop3d until it ends by itself."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT, env=environ(home), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


class Running:
    """A pop3d that serves: its port, its log, its process."""

    def __init__(self, home: Path, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], cwd=ROOT, env=environ(home), stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            line = wait_until(lambda: next((line for line in self.lines if " listening " in line), ""))
        except AssertionError as error:
            self.process.kill()
            self.end()
            raise AssertionError("".join(self.lines)) from error
        self.port = int(line.rpartition(" tls=")[0].rpartition(":")[2].strip('"'))

    def interrupt(self) -> int:
        """Send SIGINT and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        status = self.process.wait(20)
        self._reader.join(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)


@contextmanager
def serving(home: Path, *arguments: str | Path) -> Iterator[Running]:
    server = Running(home, *arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.end()


def apop(client: Client, password: bytes = b"open sesame") -> bytes:
    """Log bob in with a digest of the greeting's timestamp (RFC 1939 §7)."""
    timestamp = re.search(rb"<[^<>\s]+@[^<>\s]+>", client.greeting)
    assert timestamp is not None
    digest = hashlib.md5(timestamp[0] + password, usedforsecurity=False).hexdigest()
    return client.ask(b"APOP bob " + digest.encode())


def names(maildir: Path) -> dict[str, list[str]]:
    return {name: sorted(path.name for path in (maildir / name).iterdir()) for name in ("new", "cur", "tmp")}


def test_a_session_by_apop(tmp_path: Path, auth: Path, maildir: Path) -> None:
    with serving(tmp_path, "-a", auth, "-d", maildir, "-p", "0") as server, Client(server.port) as client:
        assert client.ask(b"USER bob").startswith(b"-ERR"), "a password in the clear is not taken without -c"
        assert apop(client, b"wrong").startswith(b"-ERR")
        assert apop(client) == b"+OK maildrop has 2 messages (41 octets)"
        assert client.ask(b"STAT") == b"+OK 2 41"
        assert client.ask_lines(b"LIST")[1:] == [b"1 22", b"2 19"]
        assert client.ask_lines(b"UIDL")[1:] == [f"1 {OLD}".encode(), f"2 {NEW}".encode()]
        assert client.ask_lines(b"RETR 2")[1:] == [b"Subject: two", b"", b".."]
        assert client.ask(b"DELE 1").startswith(b"+OK")
        assert client.ask(b"NOOP").startswith(b"+OK")
        assert client.ask(b"RSET").startswith(b"+OK")
        assert client.ask(b"DELE 2").startswith(b"+OK")
        assert client.ask(b"QUIT").startswith(b"+OK")
        assert client.rest() == b""
        assert names(maildir) == {"new": [], "cur": [f"{OLD}:2,S"], "tmp": []}


def test_passwords_are_taken_with_c_and_only_one_session_at_a_time(tmp_path: Path, auth: Path, maildir: Path) -> None:
    arguments = ("-a", auth, "-d", maildir, "-p", "0", "-c")
    with serving(tmp_path, *arguments) as server, Client(server.port) as one, Client(server.port) as two:
        assert one.ask(b"USER eve") == one.ask(b"USER bob")
        assert one.ask(b"PASS wrong").startswith(b"-ERR")
        assert one.log_in().startswith(b"+OK")
        assert two.log_in().startswith(b"-ERR [IN-USE]")
        one.socket.close()  # without QUIT: nothing is removed, and the lock is let go
        wait_until(lambda: apop(two).startswith(b"+OK"))
        assert two.ask(b"STAT") == b"+OK 2 41"


def test_ten_minutes_without_a_command_end_a_session_and_remove_nothing(
    tmp_path: Path, auth: Path, maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Pop3d(auth_file=auth, maildir=maildir).idle_seconds == 600
    monkeypatch.setitem(SETTINGS, "STUBMAIL_POP3D_IDLE_SECONDS", "1.5")
    with serving(tmp_path, "-a", auth, "-d", maildir, "-p", "0") as server, Client(server.port) as client:
        assert apop(client).startswith(b"+OK")
        assert client.ask(b"DELE 1").startswith(b"+OK")
        assert client.rest() == b"", "closed without a reply (RFC 1939 §3)"
        with Client(server.port) as other:
            assert apop(other) == b"+OK maildrop has 2 messages (41 octets)"


def test_sigint_ends_it_and_removes_nothing(tmp_path: Path, auth: Path, maildir: Path) -> None:
    with serving(tmp_path, "-a", auth, "-d", maildir, "-p", "0") as server, Client(server.port) as client:
        assert apop(client).startswith(b"+OK")
        assert client.ask(b"DELE 1").startswith(b"+OK")
        assert server.interrupt() == 0
        assert client.rest() == b""
        assert names(maildir) == {"new": [], "cur": [f"{OLD}:2,S", f"{NEW}:2,"], "tmp": []}


def test_r_makes_all_messages_new_again(tmp_path: Path, auth: Path, maildir: Path) -> None:
    before = sorted(path.name for path in maildir.iterdir())
    with serving(tmp_path, "-a", auth, "-d", maildir, "-p", "0") as server, Client(server.port) as client:
        assert apop(client).startswith(b"+OK")
        result = run(tmp_path, "-d", maildir, "-r")
        assert (result.returncode, result.stderr.count("\n")) == (os.EX_TEMPFAIL, 1), "a session is open"
        assert client.ask(b"QUIT").startswith(b"+OK")
        sidecars = sorted(path.name for path in maildir.iterdir())
        assert sidecars != before
    result = run(tmp_path, "-d", maildir, "-r")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{maildir}: reset\n", "")
    assert names(maildir) == {"new": [OLD, NEW], "cur": [], "tmp": []}
    assert {path.name for path in maildir.iterdir()} <= {*before, ".pop3d-lock"}
    with (
        serving(tmp_path, "-a", auth, "-d", maildir, "-p", "0", "-r") as server,
        Client(server.port) as client,
    ):
        assert apop(client).startswith(b"+OK maildrop has 2 ")


def test_r_forgets_nothing_when_a_message_cannot_be_moved(tmp_path: Path, auth: Path, maildir: Path) -> None:
    with serving(tmp_path, "-a", auth, "-d", maildir, "-p", "0") as server, Client(server.port) as client:
        assert apop(client).startswith(b"+OK")
    (maildir / "new" / NEW).write_bytes(b"of the same name\n")
    sidecars = {path.name for path in maildir.iterdir()}
    result = run(tmp_path, "-a", auth, "-d", maildir, "-p", "0", "-r")
    assert result.returncode == os.EX_TEMPFAIL
    assert f"{NEW} exists" in result.stderr
    assert {path.name for path in maildir.iterdir()} == sidecars


def test_help(tmp_path: Path) -> None:
    result = run(tmp_path, "-h")
    assert result.returncode == 0
    for flag in ("-a PATH", "-d PATH", "-p PORT", "-c ", "-r ", "-h, --help"):
        assert flag in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["-a", "AUTH", "-p", "0"], os.EX_USAGE, "-a needs -d"),
        (["-d", "MAILDIR", "-p", "0"], os.EX_USAGE, "-d needs -a"),
        (["-a", "AUTH", "-d", "MAILDIR"], os.EX_USAGE, "-p PORT is missing"),
        (["-r"], os.EX_USAGE, "-r needs -d"),
        (["-a", "AUTH", "-d", "MAILDIR", "-p", "65536"], os.EX_USAGE, "-p 65536"),
        (["-a", "AUTH", "-d", "MAILDIR", "-p", "1_0"], os.EX_USAGE, "-p 1_0"),
        (["-a", "AUTH", "-d", "MAILDIR", "-p", "0", "--listen", "127.0.0.1:0"], os.EX_USAGE, "exclude each other"),
        (["-a", "AUTH", "-d", "MAILDIR", "-p", "0", "--users", "u"], os.EX_USAGE, "exclude each other"),
        (["-a", "MAILDIR/none", "-d", "MAILDIR", "-p", "0"], os.EX_NOINPUT, "No such file"),
        (["-a", "BAD", "-d", "MAILDIR", "-p", "0"], os.EX_CONFIG, "line 1 is neither"),
        (["-a", "AUTH", "-d", "AUTH", "-p", "0"], os.EX_CONFIG, "is no Maildir"),
        (["-d", "AUTH", "-r"], os.EX_CONFIG, "is no Maildir"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, auth: Path, maildir: Path, arguments: list[str], status: int, part: str
) -> None:
    (tmp_path / "bad.txt").write_text("bob\nopen sesame\n")
    places = {"AUTH": str(auth), "MAILDIR": str(maildir), "BAD": str(tmp_path / "bad.txt")}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    result = run(tmp_path, *arguments)
    assert result.returncode == status, result.stderr
    assert part in result.stderr
    assert "open sesame" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_auth_file_that_others_can_read_is_warned_of(tmp_path: Path, auth: Path, maildir: Path) -> None:
    auth.chmod(0o644)
    with serving(tmp_path, "-a", auth, "-d", maildir, "-p", "0") as server:
        assert any("warning - exposed" in line for line in server.lines)


def test_a_new_password_counts_after_sighup(tmp_path: Path, auth: Path, maildir: Path) -> None:
    with serving(tmp_path, "-a", auth, "-d", maildir, "-p", "0", "-c") as server, Client(server.port) as client:
        auth.write_text("username = bob\npassword = abracadabra\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: any("- reloaded" in line for line in server.lines))
        assert client.log_in(password=b"open sesame").startswith(b"-ERR [AUTH]")
        assert client.log_in(password=b"abracadabra").startswith(b"+OK")
