"""pop3d as a process: command line, --check, signals, and errors that are one sentence and an exit status."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stubmail.mbox.lock import MailboxLock
from tests.support.pop3d import CERT, KEY, ROOT, Client, mbox, serving
from tests.support.waiting import wait_until

ONE = b"Subject: one\n\ntext\n"


def pop3d(*arguments: str | Path, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run pop3d until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "services.pop3d", *map(str, arguments)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_sentence(result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    assert result.returncode == status, result.stderr
    assert all(part in result.stderr for part in parts), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.toml"
    path.write_text(f'[users.bob]\npassword = "{{PLAIN}}x"\nmaildrop = "mbox:{tmp_path / "bob"}"\n')
    return path


@pytest.fixture
def taken() -> object:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_help_has_examples_and_version_a_version(tmp_path: Path) -> None:
    for flag in ("-h", "--help"):
        result = pop3d(flag, home=tmp_path)
        assert result.returncode == 0
        assert "pop3d --listen 127.0.0.1:1110 --users users.toml" in result.stdout
    assert pop3d("--version", home=tmp_path).stdout.split()[-1].count(".") == 2


def test_without_a_configuration_a_sample_is_shown(tmp_path: Path) -> None:
    result = pop3d(home=tmp_path)
    assert_one_sentence(result, os.EX_CONFIG, "no configuration file", "stub.conf")
    assert "[pop3d]" in result.stdout
    assert "#idle_seconds = 600.0" in result.stdout


def test_a_configuration_that_was_named_must_be_there(tmp_path: Path, users: Path) -> None:
    result = pop3d("--config", tmp_path / "no", "--listen", "127.0.0.1:0", "--users", users, home=tmp_path)
    assert_one_sentence(result, os.EX_CONFIG, "no configuration file")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[pop3d\n", "is not valid TOML"),
        ("[pop3d]\nlisten = 5\nusers = 'u'\n", "[pop3d] listen must be text"),
        ("[pop3d]\nlisten = ''\nusers = 'u'\n", "nothing to listen on"),
        ("[pop3d]\ntls_listen = '127.0.0.1:0'\nusers = 'u'\n", "tls_listen needs tls_cert"),
        ("[pop3d]\nlisten = '127.0.0.1:x'\nusers = 'USERS'\n", "'127.0.0.1:x' is not HOST:PORT"),
        ("[pop3d]\nlisten = '127.0.0.1:0'\n", "[pop3d] users is missing"),
    ],
)
def test_a_wrong_configuration_is_explained(tmp_path: Path, users: Path, text: str, part: str) -> None:
    config = tmp_path / "stub.conf"
    config.write_text(text.replace("USERS", str(users)))
    result = pop3d("--config", config, home=tmp_path)
    assert_one_sentence(result, os.EX_CONFIG, part)


def test_a_users_file_that_is_not_there(tmp_path: Path) -> None:
    result = pop3d("--listen", "127.0.0.1:0", "--users", tmp_path / "no", home=tmp_path)
    assert_one_sentence(result, os.EX_CONFIG, str(tmp_path / "no"))


def test_a_port_in_use(tmp_path: Path, users: Path, taken: str) -> None:
    result = pop3d("--listen", taken, "--users", users, home=tmp_path)
    assert_one_sentence(result, os.EX_UNAVAILABLE, f"cannot listen on {taken}", "in use")


def test_check_of_what_is_right(tmp_path: Path, users: Path) -> None:
    with users.open("a") as file:  # whose mail goes to a program is no user of POP3
        file.write('[users.carol]\nmaildrop = "pipe:/usr/bin/procmail"\n')
    result = pop3d(
        "--check", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", "--tls-cert", CERT, "--tls-key", KEY,
        "--users", users, home=tmp_path,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 maildrop, all to be opened" in result.stdout


def test_check_says_all_that_is_wrong(tmp_path: Path, users: Path, taken: str) -> None:
    with users.open("a") as file:
        file.write(f'[users.eve]\npassword = "{{PLAIN}}x"\nmaildrop = "maildir:{tmp_path / "none"}"\n')
    result = pop3d("--check", "--listen", taken, "--tls-cert", CERT, "--tls-key", CERT, "--users", users, home=tmp_path)
    assert_one_sentence(
        result, os.EX_CONFIG, "user eve", "is no Maildir", "no certificate with its key", "cannot listen"
    )


def test_check_tries_the_address_of_the_probes_too(tmp_path: Path, users: Path, taken: str) -> None:
    config = tmp_path / "stub.conf"
    config.write_text(f'[pop3d]\nlisten = "127.0.0.1:0"\nusers = "{users}"\nadmin_listen = "{taken}"\n')
    assert_one_sentence(pop3d("--check", "--config", config, home=tmp_path), os.EX_UNAVAILABLE, taken, "in use")


def test_check_warns_of_less_patience_than_clients_may_count_on(tmp_path: Path, users: Path) -> None:
    config = tmp_path / "stub.conf"
    config.write_text(f'[pop3d]\nlisten = "127.0.0.1:0"\nusers = "{users}"\nadmin_listen = ""\nidle_seconds = 3\n')
    result = pop3d("--check", "--config", config, home=tmp_path)
    assert result.returncode == 0
    assert "warning: idle_seconds is 3, and clients may count on 600 (RFC 1939 §3)\n" in result.stdout


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, users: Path, taken: str) -> None:
    config = tmp_path / "stub.conf"
    config.write_text(f'[pop3d]\nlisten = "{taken}"\nusers = "/nowhere"\nadmin_listen = ""\n')
    common = {"home": tmp_path, "STUBMAIL_POP3D_LISTEN": "127.0.0.1:0", "STUBMAIL_POP3D_USERS": "/elsewhere"}
    assert "/elsewhere" in pop3d("--check", "--config", config, **common).stderr
    assert pop3d("--check", "--config", config, "--users", users, **common).returncode == 0


def test_sigterm_sends_strangers_away_and_lets_sessions_end(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "", ONE, ONE) as (server, path),
        Client(server.port) as known,
        Client(server.port) as stranger,
    ):
        known.log_in()
        known.ask(b"DELE 1")
        server.process.send_signal(signal.SIGTERM)
        assert stranger.rest() == b"-ERR [SYS/TEMP] The server stops, try again later\r\n"
        assert known.ask(b"STAT").startswith(b"+OK 1 ")
        assert known.ask(b"QUIT").startswith(b"+OK")
        assert server.wait() == 0
        assert path.read_bytes() == mbox(ONE)


def test_sigterm_does_not_wait_for_ever_and_deletes_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, "drain_seconds = 0.2", ONE) as (server, path), Client(server.port) as client:
        client.log_in()
        client.ask(b"DELE 1")
        assert server.stop() == 0
        assert client.rest() == b""
        assert path.read_bytes() == mbox(ONE)
        assert 'reason="the server stops"' in server.logged("ended")


def test_a_removal_that_has_begun_is_ended_before_the_server_stops(tmp_path: Path) -> None:
    with serving(tmp_path, "drain_seconds = 0.1", ONE, ONE) as (server, path), Client(server.port) as client:
        client.log_in()
        client.ask(b"DELE 1")
        with MailboxLock(path):
            client.send(b"NOOP\r\nQUIT\r\n")
            assert client.line() == b"+OK"
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.5)
        assert client.line().startswith(b"+OK")
        assert server.wait() == 0
        assert path.read_bytes() == mbox(ONE)


def test_sighup_reads_the_users_again_and_keeps_them_when_they_are_wrong(tmp_path: Path) -> None:
    with serving(tmp_path, "failure_delay_seconds = 0.0", ONE) as (server, _):
        text = server.users.read_text()
        server.users.write_text(text.replace("open sesame", "abracadabra"))
        server.process.send_signal(signal.SIGHUP)
        server.logged("- reloaded", "users.toml")
        with Client(server.port) as client:
            assert client.log_in().startswith(b"-ERR [AUTH]")
            assert client.log_in(password=b"abracadabra").startswith(b"+OK")
        server.users.write_text("[users.bob\n")
        server.process.send_signal(signal.SIGHUP)
        server.logged("not-reloaded", "users.toml")
        with Client(server.port) as client:
            assert client.log_in(password=b"abracadabra").startswith(b"+OK")
        server.users.write_text(text)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: sum("reloaded" in line for line in server.lines) >= 3)
        told = [line for line in server.lines if "reloaded" in line]
        assert ["not-reloaded" in line for line in told] == [False, True, False], "one line for each signal"
        assert all("users.toml" in line for line in told) and "cert.pem" in told[0]


def test_a_maildir_is_served_too(tmp_path: Path) -> None:
    for name in ("new", "cur", "tmp"):
        (tmp_path / "md" / name).mkdir(parents=True)
    (tmp_path / "md" / "new" / "1700000000.x.host").write_bytes(ONE)
    with serving(tmp_path) as (server, _):
        server.users.write_text(f'[users.bob]\npassword = "{{PLAIN}}x"\nmaildrop = "maildir:{tmp_path / "md"}"\n')
        server.process.send_signal(signal.SIGHUP)
        server.logged("- reloaded", "users.toml")
        with Client(server.port) as client:
            client.log_in(password=b"x")
            assert client.ask_lines(b"UIDL") == [b"+OK unique-ids follow", b"1 1700000000.x.host"]
            client.ask(b"DELE 1")
            assert client.ask(b"QUIT").startswith(b"+OK")
        assert list((tmp_path / "md" / "cur").iterdir()) == []
