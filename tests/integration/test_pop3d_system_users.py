"""pop3d for users of the machine: PAM, and processes that can do no more than they must; as root only.

The users are real ones that the test makes; their mailboxes are in /var/mail, where they would be.
"""

import base64
import os
import poplib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.pop3d import ROOT, Client, Pop3d, mbox
from tests.support.unix_users import PASSWORD, Machine, UnixUser, machine
from tests.support.waiting import wait_until

MAIL = 8  # the group's gid on Debian
ONE, TWO = b"Subject: one\n\ntext\n", b"Subject: two\n\n.\n"


@pytest.fixture(scope="module")
def unix() -> Iterator[Machine]:
    with machine() as made:
        yield made


class SystemPop3d(Pop3d):
    """A running pop3d for users of the machine."""

    def __init__(self, directory: Path, unix: Machine, settings: str, admin: str) -> None:
        super().__init__(directory, "", admin=admin)
        text = self.config.read_text().replace(f'users = "{self.users}"\n', "")
        self.config.write_text(
            f'{text}system_users = true\npam_service = "{unix.service}"\nfailure_delay_seconds = 0.0\n{settings}\n'
        )

    def children(self) -> dict[int, int]:
        """Return the uid of each process that the keeper started, by pid."""
        found = {}
        for pid in self._pids():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                found[pid] = uid_of(pid)
        return found

    def _pids(self) -> list[int]:
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    @property
    def front(self) -> int:
        """The pid of the process that strangers talk to."""
        [pid] = [pid for pid, uid in self.children().items() if uid == 65534]
        return pid


def status_of(pid: int) -> dict[str, list[str]]:
    """Return what /proc/PID/status says."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: rest.split() for key, _, rest in (line.partition(":") for line in lines)}


def uid_of(pid: int) -> int:
    """Return the effective uid of a process."""
    return int(status_of(pid)["Uid"][1])


def deliver(user: UnixUser, *contents: bytes) -> Path:
    """Put mail where a deliverer puts it."""
    path = Path("/var/mail") / user.name
    path.write_bytes(mbox(*contents))
    path.chmod(0o660)
    os.chown(path, user.uid, MAIL)
    return path


@contextmanager
def serving(directory: Path, unix: Machine, settings: str = "", admin: str = "") -> Iterator[SystemPop3d]:
    with SystemPop3d(directory, unix, settings, admin) as server:
        yield server


def log_in(client: Client, user: UnixUser, password: str = PASSWORD) -> bytes:
    return client.log_in(user.name.encode(), password.encode())


@pytest.mark.parametrize("tls", [False, True])
def test_a_session_from_login_to_quit(tmp_path: Path, unix: Machine, tls: bool) -> None:
    path, others = deliver(unix.one, ONE, TWO), deliver(unix.two, TWO)
    with serving(tmp_path, unix) as server:
        with Client(server.tls_port if tls else server.port, tls=tls) as client:
            assert log_in(client, unix.one) == b"+OK maildrop has 2 messages (41 octets)"
            assert client.ask_lines(b"RETR 2")[1:] == [b"Subject: two", b"", b".."]
            [pid] = [pid for pid, uid in server.children().items() if uid == unix.one.uid]
            assert client.ask(b"DELE 1").startswith(b"+OK")
            assert client.ask(b"QUIT").startswith(b"+OK")
            assert client.rest() == b""
        assert path.read_bytes() == mbox(TWO)
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (unix.one.uid, MAIL, 0o660)
        assert others.read_bytes() == mbox(TWO)
        line = server.logged(" ended ", f"user={unix.one.name}", "reason=quit", f"tls={tls}", "mechanism=USER")
        assert "retr=1/20" in line or "retr=1/19" in line
        wait_until(lambda: pid not in server.children(), what="the end of the session's process")
        assert server.stop() == 0


def test_commands_behind_the_login_are_not_lost(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    name = unix.one.name.encode()
    for many in (1, 5000):  # more than goes along with the client's socket
        with serving(tmp_path, unix) as server, Client(server.port) as client:
            login = b"USER " + name + b"\r\nPASS " + PASSWORD.encode() + b"\r\n"
            client.send(login + b"NOOP\r\n" * many + b"QUIT\r\n")
            lines = client.rest().split(b"\r\n")
            assert [line[:3] for line in lines] == [b"+OK"] * (many + 3) + [b""]


def test_stls_then_large_mail_both_ways(tmp_path: Path, unix: Machine) -> None:
    large = b"Subject: large\n\n" + b"x" * 70 + b"\n"
    large += (b"y" * 77 + b"\n") * 60_000
    deliver(unix.one, large, ONE)
    with serving(tmp_path, unix) as server:
        client = poplib.POP3("127.0.0.1", server.port, timeout=30)
        client.stls(unverified())
        client.user(unix.one.name)
        client.pass_(PASSWORD)
        for _ in range(3):
            assert b"\n".join(client.retr(1)[1]) + b"\n" == large
        client.quit()


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_says_no_more_still_gets_its_answers(tmp_path: Path, unix: Machine, tls: bool) -> None:
    deliver(unix.one, ONE)
    with serving(tmp_path, unix) as server, Client(server.tls_port if tls else server.port, tls=tls) as client:
        assert log_in(client, unix.one).startswith(b"+OK")
        client.send(b"STAT\r\nNOOP\r\n")
        socket.socket.shutdown(client.socket, socket.SHUT_WR)  # SSLSocket would end TLS both ways
        assert client.rest() == b"+OK 1 22\r\n+OK\r\n"
        server.logged(" ended ", f"user={unix.one.name}")


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path, unix: Machine, tls: bool) -> None:
    deliver(unix.one, b"Subject: large\n\n" + (b"x" * 77 + b"\n") * 200_000)
    settings = "write_seconds = 1.0"
    with serving(tmp_path, unix, settings) as server:
        with Client(server.tls_port if tls else server.port, tls=tls, receive_buffer=4096) as client:
            assert log_in(client, unix.one).startswith(b"+OK")
            client.send(b"RETR 1\r\n")
            server.logged(" ended ", f"user={unix.one.name}", 'reason="takes nothing"')
        with Client(server.port) as client:
            assert log_in(client, unix.one).startswith(b"+OK"), "the maildrop is free again"


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_all_refusals_are_the_same(tmp_path: Path, unix: Machine) -> None:
    daemon = b"daemon"
    with serving(tmp_path, unix) as server, Client(server.port) as client:
        answers = {
            log_in(client, unix.one, "wrong"),
            client.log_in(b"no-such-user", PASSWORD.encode()),
            client.log_in(b"root", PASSWORD.encode()),
            client.log_in(daemon, PASSWORD.encode()),
            client.log_in(b"../" + unix.one.name.encode(), PASSWORD.encode()),
            client.log_in(unix.one.name.encode() + b"\0x", PASSWORD.encode()),
            client.log_in(b"\xff", b"\xff"),
            client.log_in(unix.one.name.encode(), b"x" * 240),
        }
        assert answers == {b"-ERR [AUTH] Authentication failed"}


def plain(client: Client, name: str, identity: str = "", password: str = PASSWORD) -> bytes:
    """Log in by AUTH PLAIN, to act as ``identity``."""
    return client.ask(b"AUTH PLAIN " + base64.b64encode(f"{identity}\0{name}\0{password}".encode()))


def test_nobody_acts_as_somebody_else(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    one, two = unix.one.name, unix.two.name
    with serving(tmp_path, unix) as server, Client(server.port) as client:
        for identity in (two, "root", "no-such-user", f"{one}@alpha.example"):
            assert plain(client, one, identity) == b"-ERR [AUTH] Authentication failed"
        assert plain(client, one, one).startswith(b"+OK maildrop has 1 ")


def test_a_whole_address_is_the_user_and_pam_sees_the_user_alone(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    one, seen = unix.one.name, tmp_path / "seen"
    script = tmp_path / "note"
    script.write_text(f'#!/bin/sh\necho "$PAM_USER" >> {seen}\n')
    script.chmod(0o755)
    service = Path(f"/etc/pam.d/{unix.service}-note")
    service.write_text(
        f"auth optional pam_exec.so {script}\nauth required pam_unix.so nodelay\naccount required pam_unix.so\n"
    )
    noting = Machine(unix.one, unix.two, service.name)
    addresses = [f"{one}@alpha.example", f"{one}@ALPHA.example", f"{one}@m\u00fcnchen.example"]
    try:
        with serving(tmp_path, noting, 'system_domains = ["alpha.example", "M\u00fcnchen.example"]') as server:
            for address in addresses:
                with Client(server.port) as client:
                    assert client.log_in(address.encode(), PASSWORD.encode()).startswith(b"+OK maildrop has 1 ")
                    assert client.ask(b"QUIT").startswith(b"+OK")
                with Client(server.tls_port, tls=True) as client:
                    assert plain(client, address, one).startswith(b"+OK")
                with Client(server.port) as client:
                    assert plain(client, one, address).startswith(b"+OK")
            server.logged(" ended ", f"user={one} ", "reason=quit")
            assert set(seen.read_text().split()) == {one}
            with Client(server.port) as client:
                for name in (f"{one}@beta.example", f"{one}@", "root@alpha.example", "no-such-user@alpha.example"):
                    assert plain(client, name) == b"-ERR [AUTH] Authentication failed"
                assert plain(client, addresses[0], unix.two.name) == b"-ERR [AUTH] Authentication failed"
                assert plain(client, addresses[0], password="wrong") == b"-ERR [AUTH] Authentication failed"
    finally:
        service.unlink()


@pytest.mark.parametrize(
    ("settings", "served"),
    [
        ("", False),
        ('[domain]\nname = "Alpha.Example"', True),
        ('system_domains = ["beta.example"]\n[domain]\nname = "alpha.example"', False),
    ],
)
def test_the_domain_of_the_other_services_is_served_unless_others_are_named(
    tmp_path: Path, unix: Machine, settings: str, served: bool
) -> None:
    deliver(unix.one, ONE)
    with serving(tmp_path, unix, settings) as server, Client(server.port) as client:
        answer = plain(client, f"{unix.one.name}@alpha.example")
        assert answer.startswith(b"+OK") if served else answer == b"-ERR [AUTH] Authentication failed"


def test_users_below_the_least_uid_cannot_log_in(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    with serving(tmp_path, unix, f"system_min_uid = {unix.one.uid + 1}") as server, Client(server.port) as client:
        assert log_in(client, unix.one) == b"-ERR [AUTH] Authentication failed"
        assert log_in(client, unix.two).startswith(b"+OK")


def test_one_session_at_a_time(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    with serving(tmp_path, unix) as server, Client(server.port) as first, Client(server.port) as second:
        assert log_in(first, unix.one).startswith(b"+OK")
        assert log_in(second, unix.one) == b"-ERR [IN-USE] Another session has the maildrop open"
        first.socket.close()
        wait_until(lambda: log_in(second, unix.one).startswith(b"+OK"))


def as_process(pid: int, code: str, *arguments: object) -> list[str]:
    """Run Python with the uids, gids and groups of a running process, and return what it prints."""
    status = status_of(pid)
    (uid,), (gid,) = set(status["Uid"]), set(status["Gid"])
    groups = [int(group) for group in status["Groups"]]
    prelude = f"import os, socket, sys\nos.setgroups({groups})\nos.setgid({gid})\nos.setuid({uid})\n"
    command = [sys.executable, "-c", prelude + code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


TRY = """
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDONLY))
        print("opened")
    except PermissionError:
        print("refused")
"""


def test_who_can_open_which_mailbox(tmp_path: Path, unix: Machine) -> None:
    """Tried with the very credentials that the running processes have."""
    paths = [deliver(unix.one, ONE), deliver(unix.two, TWO)]
    with serving(tmp_path, unix, 'system_maildrop = "mbox:~/mbox"') as server:
        for user in (unix.one, unix.two):
            own = user.home / "mbox"
            own.write_bytes(mbox(ONE))
            own.chmod(0o600)
            os.chown(own, user.uid, user.gid)
            paths.append(own)
        with Client(server.port) as client, Client(server.port) as stranger:
            assert log_in(client, unix.one).startswith(b"+OK maildrop has 1 ")
            assert stranger.ask(b"CAPA").startswith(b"+OK")
            [session] = [pid for pid, uid in server.children().items() if uid == unix.one.uid]
            assert as_process(server.front, TRY, *paths, "/etc/shadow") == ["refused"] * 5
            assert as_process(session, TRY, *paths, "/etc/shadow") == [
                "opened", "refused", "opened", "refused", "refused",
            ]  # fmt: skip
            for pid in (server.front, session):
                status = status_of(pid)
                assert status["NoNewPrivs"] == ["1"]
                assert {*status["CapEff"], *status["CapPrm"], *status["CapInh"], *status["CapAmb"]} == {"0" * 16}
            assert status_of(session)["Gid"] == [str(unix.one.gid)] * 4
            open_files = {str(link.readlink()) for link in Path(f"/proc/{server.front}/fd").iterdir()}
            assert not [path for path in open_files if "mail" in path or "mbox" in path or "/etc/" in path]


def test_the_front_answers_whoever_runs_it(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    with serving(tmp_path, unix, admin="localhost:0") as server:
        line = server.logged("pop3d.admin", "listening")
        port = int(line.rpartition(":")[2])
        server.logged("front confined files=none") if landlock() else server.logged("front confined")
        with Client(server.port) as client:
            assert log_in(client, unix.one).startswith(b"+OK")
            assert client.ask_lines(b"RETR 1")[0].startswith(b"+OK")
            metrics = page(port, "/metrics")
            assert "stubmail_pop3_open_sessions 1.0" in metrics
            assert client.ask(b"QUIT").startswith(b"+OK")
        assert "ready" in page(port, "/readyz")
        wait_until(lambda: "stubmail_pop3_open_sessions 0.0" in page(port, "/metrics"))
        # What the session's process counted comes when it ends.
        lines = page(port, "/metrics").splitlines()
        assert 'stubmail_pop3_messages_total{what="retrieved"} 1.0' in lines
        assert 'stubmail_pop3_sessions_total{end="quit"} 1.0' in lines
        assert 'stubmail_pop3_connections_total{port="pop3"} 1.0' in lines


def page(port: int, path: str) -> str:
    """Return a page of the admin listener."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return str(answer.read().decode())


def landlock() -> bool:
    """Whether this kernel has it."""
    return (
        "landlock" in Path("/sys/kernel/security/lsm").read_text()
        if Path("/sys/kernel/security/lsm").exists()
        else False
    )


def remembers(pid: int, secret: bytes) -> bool:
    """Tell whether it is anywhere in the memory that a process can write."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, rights = line.split()[:2]
            if rights.startswith("rw") and "[v" not in line:
                start, end = (int(text, 16) for text in area.split("-"))
                memory.seek(start)
                if secret in memory.read(end - start):
                    return True
    return False


def test_neither_keys_nor_others_passwords_are_where_sessions_come_from(tmp_path: Path, unix: Machine) -> None:
    guess = b"a guess that nobody else makes"
    with serving(tmp_path, unix) as server, Client(server.tls_port, tls=True) as client, Client(server.port) as known:
        key = (tmp_path / "key.pem").read_bytes().splitlines()[1]
        server.process.send_signal(signal.SIGHUP)
        server.logged("- reloaded", "cert.pem")
        assert client.log_in(unix.one.name.encode(), guess).startswith(b"-ERR")
        assert log_in(known, unix.two).startswith(b"+OK")
        [session] = [pid for pid, uid in server.children().items() if uid == unix.two.uid]
        assert remembers(server.front, key)
        for pid in (server.process.pid, session):
            assert remembers(pid, unix.service.encode()), "it is looked for in the right place"
            assert not remembers(pid, key)
            assert not remembers(pid, guess)


def test_the_group_of_mail_only_where_mailboxes_are(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    with serving(tmp_path, unix) as server, Client(server.port) as client:
        assert log_in(client, unix.one).startswith(b"+OK")
        [session] = [pid for pid, uid in server.children().items() if uid == unix.one.uid]
        assert status_of(session)["Gid"] == [str(MAIL)] * 4
        assert sorted(map(int, status_of(session)["Groups"])) == sorted([MAIL, unix.one.gid])


def test_links_to_others_mail_are_not_followed(tmp_path: Path, unix: Machine) -> None:
    others = deliver(unix.two, TWO)
    own = Path("/var/mail") / unix.one.name
    own.unlink(missing_ok=True)
    for make in (own.symlink_to, own.hardlink_to):
        make(others)
        with serving(tmp_path, unix) as server, Client(server.port) as client:
            assert log_in(client, unix.one) == b"-ERR [SYS/PERM] The maildrop cannot be opened"
            server.logged("failed", unix.one.name)
        own.unlink()
    home = unix.one.home / "Maildir"
    for name in ("new", "cur", "tmp"):
        (unix.two.home / "Maildir" / name).mkdir(parents=True, exist_ok=True)
    home.symlink_to(unix.two.home / "Maildir")
    with serving(tmp_path, unix, 'system_maildrop = "maildir:~/Maildir"') as server, Client(server.port) as client:
        assert log_in(client, unix.one) == b"-ERR [SYS/PERM] The maildrop cannot be opened"
    home.unlink()


def test_a_maildir_at_home(tmp_path: Path, unix: Machine) -> None:
    home = unix.one.home / "Maildir"
    for path in (home, home / "new", home / "cur", home / "tmp"):
        path.mkdir()
        os.chown(path, unix.one.uid, unix.one.gid)
    (home / "new" / "1700000000.a.host").write_bytes(ONE)
    os.chown(home / "new" / "1700000000.a.host", unix.one.uid, unix.one.gid)
    with serving(tmp_path, unix, 'system_maildrop = "maildir:~/Maildir"') as server, Client(server.port) as client:
        assert log_in(client, unix.one).startswith(b"+OK maildrop has 1 ")
        assert client.ask(b"DELE 1").startswith(b"+OK")
        assert client.ask(b"QUIT").startswith(b"+OK")
    assert list((home / "cur").iterdir()) == []
    shutil.rmtree(home)


def test_pam_that_blocks_blocks_nobody_else(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    script = tmp_path / "slow"
    script.write_text(f'#!/bin/sh\n[ "$PAM_USER" = {unix.two.name} ] && exec sleep 1000\nexit 0\n')
    script.chmod(0o755)
    service = Path(f"/etc/pam.d/{unix.service}-slow")
    service.write_text(f"auth required pam_exec.so {script}\naccount required pam_permit.so\n")
    slow = Machine(unix.one, unix.two, service.name)
    try:
        with serving(tmp_path, slow, "login_seconds = 6.0") as server, Client(server.port) as client:
            blocked = [Client(server.port) for _ in range(3)]
            for one in blocked:
                one.send(b"USER " + unix.two.name.encode() + b"\r\nPASS x\r\n")
                one.line()
            assert log_in(client, unix.one).startswith(b"+OK")
            # Their time to log in is over, and that of the process that asks PAM: the first to find out answers.
            assert all(one.rest()[:15] in (b"", b"-ERR [SYS/TEMP]") for one in blocked)
            for one in blocked:
                one.socket.close()
            assert client.ask(b"NOOP").startswith(b"+OK")
            wait_until(lambda: len(server.children()) == 2, what="the end of the processes that blocked")
    finally:
        service.unlink()


def test_pam_that_is_broken_is_no_wrong_password(tmp_path: Path, unix: Machine) -> None:
    broken = Machine(unix.one, unix.two, f"{unix.service}-broken")
    service = Path(f"/etc/pam.d/{broken.service}")
    service.write_text("auth required pam_no_such_module.so\naccount required pam_permit.so\n")
    try:
        with serving(tmp_path, broken) as server, Client(server.port) as client:
            assert log_in(client, unix.one) == b"-ERR [SYS/TEMP] Passwords cannot be checked now"
    finally:
        service.unlink()


def test_a_front_that_dies_is_started_again_and_sessions_go_on(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    with serving(tmp_path, unix) as server, Client(server.port) as known, Client(server.port) as stranger:
        assert log_in(known, unix.one).startswith(b"+OK")
        os.kill(server.front, signal.SIGKILL)
        assert stranger.rest() == b""
        assert known.ask(b"STAT") == b"+OK 1 22"
        server.logged("died", "front")

        def again() -> bool:
            with Client(server.port) as client:
                return log_in(client, unix.two).startswith(b"+OK")

        wait_until(again, 20)
        assert known.ask(b"QUIT").startswith(b"+OK")


def test_sigterm_lets_sessions_end(tmp_path: Path, unix: Machine) -> None:
    path = deliver(unix.one, ONE, TWO)
    with serving(tmp_path, unix) as server, Client(server.port) as known, Client(server.tls_port, tls=True) as other:
        assert log_in(known, unix.one).startswith(b"+OK")
        assert log_in(other, unix.two).startswith(b"+OK")
        assert known.ask(b"DELE 1").startswith(b"+OK")
        server.process.send_signal(signal.SIGTERM)
        for client in (known, other):
            assert client.ask(b"NOOP").startswith(b"+OK")
            assert client.ask(b"QUIT").startswith(b"+OK")
        assert server.wait() == 0
        assert path.read_bytes() == mbox(TWO)


def test_sigterm_does_not_wait_for_ever(tmp_path: Path, unix: Machine) -> None:
    path = deliver(unix.one, ONE)
    with serving(tmp_path, unix, "drain_seconds = 0.2") as server, Client(server.tls_port, tls=True) as client:
        assert log_in(client, unix.one).startswith(b"+OK")
        assert client.ask(b"DELE 1").startswith(b"+OK")
        assert server.stop() == 0
        assert client.rest() == b""
        assert path.read_bytes() == mbox(ONE)


def test_a_killed_keeper_leaves_nothing_behind(tmp_path: Path, unix: Machine) -> None:
    deliver(unix.one, ONE)
    with serving(tmp_path, unix, "drain_seconds = 0.1") as server, Client(server.port) as client:
        assert log_in(client, unix.one).startswith(b"+OK")
        children = list(server.children())
        assert len(children) == 2
        server.process.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in children), what="the end of all")


def test_sighup_brings_a_new_certificate(tmp_path: Path, unix: Machine) -> None:
    with serving(tmp_path, unix) as server:
        (tmp_path / "key.pem").chmod(0o600)
        server.process.send_signal(signal.SIGHUP)
        server.logged("- reloaded", "cert.pem")
        with Client(server.tls_port, tls=True) as client:
            assert client.ask(b"CAPA").startswith(b"+OK")
        (tmp_path / "key.pem").rename(tmp_path / "away.pem")
        server.process.send_signal(signal.SIGHUP)
        server.logged("not reloaded", "key.pem")
        (tmp_path / "key.pem").write_text("no key")
        server.process.send_signal(signal.SIGHUP)
        server.logged("not-reloaded")
        with Client(server.tls_port, tls=True) as client:
            assert client.ask(b"CAPA").startswith(b"+OK")


@pytest.mark.parametrize(
    ("settings", "status", "part"),
    [
        ('login_user = "root"', os.EX_CONFIG, "login_user: root is root"),
        ('login_user = "no-such-user"', os.EX_CONFIG, "there is no user 'no-such-user'"),
        ('login_user = "mail"', os.EX_CONFIG, "mail is in mail"),
        ('mail_group = "root"', os.EX_CONFIG, "must not be root's"),
        ('system_maildrop = "mbox:/var/mail/all"', os.EX_CONFIG, "system_maildrop must be"),
        ('system_domains = ["alpha.example", "a b"]', os.EX_CONFIG, "[pop3d] system_domains: 'a b' is not a domain"),
        ('users = "users.toml"', os.EX_CONFIG, "exclude each other"),
        ('listen = "192.0.2.1:0"', os.EX_UNAVAILABLE, "cannot listen on 192.0.2.1"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, unix: Machine, settings: str, status: int, part: str) -> None:
    result = start(tmp_path, unix, settings)
    assert result.returncode == status, result.stderr
    assert part in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_check_says_what_is_there_and_what_is_not(tmp_path: Path, unix: Machine) -> None:
    command = [sys.executable, "-m", "services.pop3d", "--check"]
    result = start(tmp_path, unix, "", command=command)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"PAM service {unix.service}: there; mail at mbox:/var/mail/%u\n" in result.stdout
    result = start(tmp_path, unix, 'system_domains = ["Beta.example", "alpha.example"]', command=command)
    assert "mail at mbox:/var/mail/%u; NAME@alpha.example and NAME@beta.example are NAME\n" in result.stdout
    result = start(tmp_path, Machine(unix.one, unix.two, "no-such-service"), "", command=command)
    assert result.returncode == os.EX_CONFIG
    assert "there is no /etc/pam.d/no-such-service" in result.stderr


def test_a_certificate_that_is_none_ends_it(tmp_path: Path, unix: Machine) -> None:
    result = start(tmp_path, unix, 'tls_cert = "/dev/null"\ntls_key = "/dev/null"')
    assert result.returncode == os.EX_CONFIG
    assert "are no certificate with its key" in result.stderr


def test_it_must_be_started_as_root(tmp_path: Path, unix: Machine) -> None:
    # The imports come first: Python may be where only root can read it.
    code = "import os, sys, services.pop3d.system.keeper\nfrom services.pop3d.__main__ import main\n"
    code += "os.seteuid(65534)\nmain(sys.argv[1:])"
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o055 != 0o055:
            directory.chmod(0o755)
    result = start(tmp_path, unix, "", command=[sys.executable, "-c", code])
    assert result.returncode == os.EX_NOPERM, result.stderr
    assert "system_users needs to be started as root" in result.stderr


def start(
    tmp_path: Path, unix: Machine, settings: str, command: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a pop3d that ends by itself."""
    config = Path(tmp_path, "system.conf")
    text = f'[pop3d]\nsystem_users = true\npam_service = "{unix.service}"\nadmin_listen = ""\n{settings}\n'
    config.write_text(text if "listen = " in settings else text + 'listen = "127.0.0.1:0"\n')
    return subprocess.run(
        [*(command or [sys.executable, "-m", "services.pop3d"]), "--config", str(config)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
