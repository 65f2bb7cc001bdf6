"""The puller as a process, a real store, real keys: exit statuses, rules, signals, and two at once."""

import contextlib
import http.client
import os
import pty
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stubmail.cookies import FILE_NAME
from stubmail.keyring import Keyring
from stubmail.mbox import MailboxLock, Mbox
from stubmail.openpgp import Identity
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone
from tests.support.alpha import ALICE, BOB, ZONE, Alpha, alpha
from tests.support.gpg import GpgHome, gpg_home, need
from tests.support.http_server import ScriptedServer
from tests.support.ports import LOOPBACK, free_port
from tests.support.small_disk import unshare
from tests.support.waiting import wait_until

PROGRAM = [sys.executable, "-m", "services.http2mbox"]
MESSAGE = b"From: Alice <alice@alpha.example>\r\nSubject: %d\r\n\r\nFrom alpha with 8-bit \xe2\x98\x83\r\n"


@dataclass
class People:
    """The keyrings, made once: alice's and bob's, who know each other, and mallory's with a key for alice's address."""

    alice: Identity
    bob: GpgHome
    mallory: Identity


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    need("gpg", "gnupg")
    with gpg_home() as alice, gpg_home() as bob, gpg_home() as mallory:
        for home, user_id in ((alice, f"Alice <{ALICE}>"), (bob, f"Bob <{BOB}>"), (mallory, f"Alice <{ALICE}>")):
            home.generate(user_id)
        bob.run("--import", data=alice.export(str(ALICE)))
        with Keyring(alice.path).identity(ALICE) as one, Keyring(mallory.path).identity(ALICE) as other:
            yield People(one, bob, other)


@pytest.fixture(scope="module")
def world(people: People, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alpha]:
    directory = tmp_path_factory.mktemp("alpha")
    with alpha(directory, people.alice, Keyring(people.bob.path).export(BOB)) as found:
        yield found


@dataclass
class Puller:
    """Bob's puller: its files below ``root``, and how to run it."""

    root: Path
    world: Alpha

    @property
    def mbox(self) -> Path:
        return self.root / "mail" / "bob"

    @property
    def users(self) -> Path:
        return self.root / "users.toml"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def run(self, *arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [*PROGRAM, "--config", str(config or self.root / "stub.conf"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with self.log.open("wb") as output:
            command = [*PROGRAM, "--config", str(self.root / "stub.conf"), *arguments]
            return subprocess.Popen(command, stdout=output, stderr=output)

    def wait_for_a_round(self) -> None:
        heartbeat = self.root / "state" / "heartbeat"
        before = heartbeat.stat().st_mtime_ns if heartbeat.exists() else 0
        wait_until(lambda: heartbeat.exists() and heartbeat.stat().st_mtime_ns != before, what="a round")

    def messages(self) -> list[bytes]:
        snapshot = Mbox(self.mbox).snapshot()
        return [b"".join(snapshot.chunks(at)) for at in range(len(snapshot))]


@pytest.fixture
def puller(world: Alpha, people: People, tmp_path: Path) -> Iterator[Puller]:
    found = Puller(tmp_path, world)
    found.mbox.parent.mkdir()
    found.users.write_text(
        f'[users.bob]\naddress = "{BOB}"\ngnupghome = "{people.bob.path}"\nmaildrop = "mbox:{found.mbox}"\n'
    )
    (tmp_path / "stub.conf").write_text(f"""\
[dns]
resolver = "{world.resolver}"
allow_private = true
[http2mbox]
admin_listen = ""
users = "{found.users}"
state = "{tmp_path / "state"}"
lock_seconds = 1
""")
    yield found
    world.clear()


def test_mail_is_delivered_once_and_the_sender_sees_it_fetched(puller: Puller) -> None:
    ids = puller.world.send(*(MESSAGE % number for number in range(3)))
    first = puller.run("--once")
    assert (first.returncode, first.stdout) == (0, "pulled delivered=3 held=0 strangers=0 domains=1\n"), first.stderr
    assert [message.endswith(MESSAGE % number) for number, message in enumerate(puller.messages())] == [True] * 3
    head = puller.messages()[0].split(b"\r\n")
    assert head[0].startswith(
        f"Received: from post.alpha.example by beta.example with STUB id {ids[0].hex()} for <{BOB}>; ".encode()
    )
    assert (
        head[1]
        == (
            f"Authentication-Results: beta.example; x-stub=pass header.from={ALICE}"
            f" x-stub.fingerprint={puller.world.identity.fingerprint}"
        ).encode()
    )
    assert puller.world.states() == dict.fromkeys(ids, "fetched")
    second = puller.run("--once")
    assert (second.returncode, second.stdout) == (1, "pulled delivered=0 held=0 strangers=0 domains=1\n")


def test_nothing_is_said_when_asked_to_be_quiet(puller: Puller) -> None:
    puller.world.send(MESSAGE % 1)
    done = puller.run("--once", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_dry_run_only_counts_and_keep_leaves_the_mail(puller: Puller) -> None:
    ids = puller.world.send(MESSAGE % 1)
    dry = puller.run("--dry-run")
    assert (dry.returncode, dry.stdout) == (0, "listed waiting=1 held=0 strangers=0 domains=1\n"), dry.stderr
    assert not puller.mbox.exists()
    assert puller.run("--once", "--keep").returncode == 0
    assert puller.run("--once", "--keep").returncode == 1
    assert puller.world.states() == dict.fromkeys(ids, "waiting")
    assert puller.run("--once", "--full").returncode == 1
    assert puller.world.states() == dict.fromkeys(ids, "fetched")
    assert len(puller.messages()) == 1


def test_forgeries_are_held_with_their_reasons_and_the_rest_is_delivered(puller: Puller, people: People) -> None:
    world = puller.world
    ids = [secrets.token_bytes(16) for _ in range(7)]
    honest = MESSAGE % 1
    eve = BOB.parse("eve@beta.example")
    text = honest + bytes(30_000_000)
    bomb = people.bob.run("--encrypt", "--trust-model=always", "-r", str(BOB), "-z", "9", data=text).stdout
    contents = {
        "unknown-signer": world.seal(ids[0], honest, signer=people.mallory),
        "malformed": b"<html>Welcome to our hotel</html>" * 10,
        "recipient": world.seal(ids[2], honest, to=eve),
        "from": world.seal(ids[3], honest.replace(b"alice@", b"carol@")),
        "trailing": world.seal(ids[4], honest) + world.seal(ids[4], honest),
        "unsigned": people.bob.run("--encrypt", "--trust-model=always", "-r", str(BOB), data=honest).stdout,
        "bomb": bomb,
    }
    world.put(list(zip(ids, contents.values(), strict=True)))
    good = world.send(honest)
    done = puller.run("--once")
    assert done.returncode == 77
    assert done.stdout == "pulled delivered=6 held=7 strangers=0 domains=1 notices=5 key_mismatches=1\n", done.stderr
    lines = {post_id: line for post_id in ids for line in done.stderr.splitlines() if f" {post_id.hex()} held" in line}
    for post_id, reason in zip(ids, contents, strict=True):
        if reason not in ("trailing", "bomb"):
            assert f"reason={reason} " in lines[post_id]
    messages = puller.messages()
    assert [message for message in messages if not message.startswith(b"From: Mail Delivery System")] == messages[:1]
    assert messages[0].endswith(honest) and len(messages) == 6
    states = world.states()
    assert states[good[0]] == "fetched" and {states[post_id] for post_id in ids} == {"waiting"}
    again = puller.run("--once", "--full")
    assert (again.returncode, again.stderr) == (77, "")


def test_another_key_for_a_correspondent_is_named_with_both_fingerprints(
    puller: Puller, people: People, world: Alpha
) -> None:
    accounts = world.directory / "accounts.toml"
    before = accounts.read_text()
    mallory = people.mallory.fingerprint
    accounts.write_text(before + f'[accounts.mallory]\naddress = "{ALICE}"\nfingerprint = "{mallory}"\n')
    world.store.send_signal(signal.SIGHUP)
    forger = Alpha(world.directory, people.mallory, world.bob, world.dns, world.store)
    try:
        wait_until(lambda: _may_store(forger), 20, "the store's reload")
        forger.send(MESSAGE % 1)
        done = puller.run("--once")
        assert done.returncode == 77
        assert f"found={mallory} expected={people.alice.fingerprint}" in done.stderr
        assert done.stdout == "pulled delivered=1 held=0 strangers=0 domains=1 notices=1 key_mismatches=1\n"
        (notice,) = puller.messages()
        assert f"stubmail keys accept --account {BOB} {ALICE} {mallory}".encode() in notice
    finally:
        forger.clear()
        accounts.write_text(before)
        world.store.send_signal(signal.SIGHUP)


def _may_store(client: Alpha) -> bool:
    return client.client().open().max_post > 0


def test_a_second_copy_says_so_and_a_dry_run_does_not_mind(puller: Puller) -> None:
    with puller.start("--interval", "0.2") as daemon:
        try:
            wait_until(lambda: (puller.root / "state" / "heartbeat").exists(), 20)
            second = puller.run("--once")
            assert second.returncode == 75
            assert f"another http2mbox (process {daemon.pid}) is pulling for {BOB}" in second.stderr
            assert len(second.stderr.splitlines()) == 1
            assert puller.run("--dry-run").returncode == 1
        finally:
            daemon.terminate()


def test_a_daemon_delivers_as_mail_comes_reads_users_again_and_ends_promptly(puller: Puller) -> None:
    with puller.start("--interval", "0.1") as daemon:
        try:
            for number in range(3):
                puller.world.send(MESSAGE % number)
                wait_until(lambda: len(puller.messages()) == number + 1, 20, "the delivery")  # noqa: B023
            elsewhere = puller.root / "mail" / "elsewhere"
            puller.users.write_text(puller.users.read_text().replace(str(puller.mbox), str(elsewhere)))
            daemon.send_signal(signal.SIGHUP)
            for _ in range(2):  # before the second round from here on the users have been read
                puller.wait_for_a_round()
            puller.world.send(MESSAGE % 9)
            wait_until(lambda: elsewhere.exists() or len(puller.messages()) == 4, 20, "the delivery")
            wait_until(lambda: set(puller.world.states().values()) == {"fetched"}, 20, "the acknowledgement")
            started = time.monotonic()
        finally:
            daemon.terminate()
        assert daemon.wait(20) == 0
        assert time.monotonic() - started < 10
    assert elsewhere.exists()
    assert "pulled delivered=4" in puller.log.read_text()


def test_a_daemon_tells_whether_it_is_ready_and_what_it_has_done(puller: Puller) -> None:
    config = puller.root / "stub.conf"
    config.write_text(config.read_text().replace('admin_listen = ""', f'admin_listen = "{LOOPBACK}:{free_port()}"'))
    where = next(line for line in config.read_text().splitlines() if line.startswith("admin_listen")).split('"')[1]

    def page(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(where, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionRefusedError:
            return 0, ""
        finally:
            connection.close()

    puller.world.send(MESSAGE % 1)
    with puller.start("--interval", "0.2") as daemon:
        try:
            wait_until(lambda: page("/readyz")[0] == 200, 20, "readiness")
            wait_until(
                lambda: 'posts_total{outcome="delivered"} 1.0' in page("/metrics")[1], 20, "the delivery's count"
            )
            text = page("/metrics")[1]
            assert 'stubmail_puller_accounts{state="open"} 1.0' in text
            assert "stubmail_puller_held_posts 0.0" in text
            second = puller.run("--interval", "1", "--account", "eve@beta.example")
            assert second.returncode == os.EX_CONFIG
        finally:
            daemon.terminate()
        assert daemon.wait(20) == 0
    assert page("/livez")[0] == 0


def test_an_address_for_the_pages_that_is_taken_is_said_at_once(puller: Puller) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, free_port()))  # which no connection takes when it is free again
        taken.listen()
        where = f"{LOOPBACK}:{taken.getsockname()[1]}"
        config = puller.root / "stub.conf"
        config.write_text(config.read_text().replace('admin_listen = ""', f'admin_listen = "{where}"'))
        done = puller.run("--interval", "1")
        assert (done.returncode, f"cannot listen on {where}" in done.stderr) == (os.EX_UNAVAILABLE, True)
        assert puller.run("--once").returncode == 1  # which needs no such address
        wrong = puller.run("--check", "--interval", "1")
        assert (wrong.returncode, "admin_listen: cannot listen on" in wrong.stderr) == (os.EX_UNAVAILABLE, True)
        assert puller.run("--check").returncode == 0
    assert f"admin_listen: {where} is free\n" in puller.run("--check", "--interval", "1").stdout
    with puller.start("--interval", "1") as daemon:
        try:
            puller.wait_for_a_round()  # from then on it hears signals
            wait_until(lambda: "in use, as an http2mbox is running" in puller.run("--check", "--interval", "1").stdout)
        finally:
            daemon.terminate()
        assert daemon.wait(20) == 0


@pytest.mark.parametrize(("term", "shows"), [("xterm", True), ("dumb", False)])
def test_a_bar_is_on_a_terminal_and_nowhere_else(puller: Puller, term: str, shows: bool) -> None:
    puller.world.send(*(MESSAGE % number for number in range(20)))
    ours, its = pty.openpty()
    command = [*PROGRAM, "--config", str(puller.root / "stub.conf"), "--once"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, env=os.environ | {"TERM": term}) as process:
        os.close(its)
        seen = b""
        with (
            contextlib.suppress(OSError),
            os.fdopen(ours, "rb", buffering=0) as terminal,
        ):  # EIO: it is closed
            while data := terminal.read(4096):
                seen += data
        assert process.communicate(timeout=20)[0] == b"pulled delivered=20 held=0 strangers=0 domains=1\n"
    assert (b"messages, " in seen) == shows
    assert b"\x1b[K" in seen or not shows


def test_a_broken_users_file_on_sighup_leaves_the_daemon_at_work(puller: Puller) -> None:
    with puller.start("--interval", "0.1") as daemon:
        try:
            wait_until(lambda: (puller.root / "state" / "heartbeat").exists(), 20)
            puller.users.write_text("this is not TOML")
            daemon.send_signal(signal.SIGHUP)
            wait_until(lambda: "not-reloaded" in puller.log.read_text(), 20)
            puller.world.send(MESSAGE % 1)
            wait_until(lambda: len(puller.messages()) == 1, 20, "the delivery")
        finally:
            daemon.terminate()
        assert daemon.wait(20) == 0


def test_mail_goes_into_a_maildir_or_to_a_program_when_the_users_file_says_so(puller: Puller) -> None:
    maildir = puller.root / "Maildir"
    text = puller.users.read_text()
    puller.users.write_text(text.replace(f"mbox:{puller.mbox}", f"maildir:{maildir}/"))
    puller.world.send(MESSAGE % 1)
    assert puller.run("--once").returncode == 0
    (path,) = (maildir / "new").iterdir()
    assert path.read_bytes().endswith((MESSAGE % 1).replace(b"\r\n", b"\n"))
    out = puller.root / "out"
    program = f"{sys.executable} -c 'import sys; open(sys.argv[1], chr(97)).write(sys.stdin.read())' {out}"
    puller.users.write_text(text.replace(f"mbox:{puller.mbox}", f"pipe:{program}"))
    puller.world.send(MESSAGE % 2)
    assert puller.run("--once").returncode == 0
    assert out.read_bytes().endswith((MESSAGE % 2).replace(b"\r\n", b"\n"))
    ids = puller.world.send(MESSAGE % 3)
    puller.users.write_text(text.replace(f"mbox:{puller.mbox}", "pipe:/bin/sh -c 'exit 75'"))
    done = puller.run("--once")
    assert (done.returncode, "status 75 (EX_TEMPFAIL)" in done.stderr) == (75, True)
    assert puller.world.states()[ids[0]] == "waiting"


def test_a_delivery_program_that_hangs_does_not_keep_the_process_from_ending(puller: Puller) -> None:
    out = puller.root / "pid"
    code = "import os, sys, time; open(sys.argv[1], chr(119)).write(str(os.getpid())); time.sleep(600)"
    program = f"{sys.executable} -c '{code}'"
    puller.users.write_text(puller.users.read_text().replace(f"mbox:{puller.mbox}", f"pipe:{program} {out}"))
    ids = puller.world.send(MESSAGE % 1)
    with puller.start("--interval", "0.2") as daemon:
        try:
            wait_until(lambda: out.exists() and out.read_text(), 20, "the program")
            started = time.monotonic()
        finally:
            daemon.terminate()
        assert daemon.wait(20) == 0
        assert time.monotonic() - started < 18
    assert not Path(f"/proc/{out.read_text()}").exists()
    assert puller.world.states() == dict.fromkeys(ids, "waiting")


@pytest.mark.parametrize("kind", ["mbox", "maildir"])
def test_a_full_disk_keeps_the_mail_at_the_store_until_there_is_room(puller: Puller, kind: str) -> None:
    disk = puller.root / "disk"
    disk.mkdir()
    puller.users.write_text(puller.users.read_text().replace(f"mbox:{puller.mbox}", f"{kind}:{disk / 'bob'}"))
    ids = puller.world.send(*(MESSAGE % number + (b"x" * 70 + b"\r\n") * 500 for number in range(3)))
    script = """
        mount -t tmpfs -o size=512k,mode=700 tmpfs "$0" || exit 9
        dd if=/dev/zero of="$0/fill" bs=1k count=480 2>/dev/null
        "$@"; echo "first $?"
        rm "$0/fill"
        "$@"; echo "second $?"
        cp -r "$0/." "$0.copy"
    """
    pull = [*PROGRAM, "--config", str(puller.root / "stub.conf"), "--once"]
    command = [*unshare(), "sh", "-c", script, str(disk), *pull]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "first 75\n" in done.stdout and "second 0\n" in done.stdout, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "pulled delivered=0" in done.stdout and "pulled delivered=3" in done.stdout
    copy = puller.root / "disk.copy" / "bob"
    assert (len(Mbox(copy).snapshot()) if kind == "mbox" else len(list((copy / "new").iterdir()))) == 3
    assert puller.world.states() == dict.fromkeys(ids, "fetched")


def test_deleted_cookies_are_got_anew(puller: Puller) -> None:
    puller.run("--once")
    jar = puller.root / "state" / str(BOB) / FILE_NAME
    jar.unlink()
    puller.world.send(MESSAGE % 1)
    assert puller.run("--once").returncode == 0
    assert jar.exists()


def test_a_locked_maildrop_leaves_the_mail_at_the_store(puller: Puller) -> None:
    ids = puller.world.send(MESSAGE % 1)
    with MailboxLock(puller.mbox, create=True):
        done = puller.run("--once")
    assert done.returncode == 75
    assert puller.world.states() == dict.fromkeys(ids, "waiting")
    assert puller.run("--once").returncode == 0


def test_a_store_that_never_answers_does_not_keep_the_process_from_ending(puller: Puller) -> None:
    server = ScriptedServer((lambda connection: connection.wait_closed(),))
    with NameServer([parse_zone(ZONE.format(http=server.port, udp=9))]) as dns:
        config = puller.root / "stub.conf"
        config.write_text(config.read_text().replace(puller.world.resolver, f"{dns.address[0]}:{dns.address[1]}"))
        with puller.start("--interval", "0.2") as daemon:
            try:
                wait_until(lambda: server.connections, 20, "the connection")
                started = time.monotonic()
            finally:
                daemon.terminate()
            assert daemon.wait(20) == 0
            assert time.monotonic() - started < 9
    server.close()
    assert "pulled delivered=0" in puller.log.read_text()


def test_dns_that_does_not_answer_is_trouble_worth_another_try(puller: Puller) -> None:
    config = puller.root / "stub.conf"
    config.write_text(
        config.read_text()
        .replace(puller.world.resolver, "127.0.0.1:9")
        .replace("[dns]", "[dns]\ntimeout_seconds = 0.3")
    )
    done = puller.run("--once")
    assert done.returncode == 75
    assert "failed=2" in done.stdout  # the correspondents' domain, and our own outbox


def test_check_says_what_is_right_or_wrong(puller: Puller) -> None:
    done = puller.run("--check")
    assert done.returncode == 0, done.stderr
    assert f"{BOB}: key {puller.world.bob.fingerprint}, 1 correspondent in 1 domain, maildrop" in done.stdout
    assert "beta.example: DNS answers, but there are no stub mail records; own mail is not watched\n" in done.stdout
    config = puller.root / "stub.conf"
    text = config.read_text()
    config.write_text(text + 'store = "https://post.beta.example/store"\n')
    assert "own mail is watched at https://post.beta.example/store\n" in puller.run("--check").stdout
    config.write_text(text + 'store = "https://post.beta.example:1/"\n')
    wrong = puller.run("--check")
    assert (wrong.returncode, "[http2mbox] store" in wrong.stderr) == (os.EX_CONFIG, True)
    config.write_text(text)
    puller.users.write_text(puller.users.read_text().replace(str(puller.mbox), "/nonexistent/bob"))
    wrong = puller.run("--check")
    assert wrong.returncode == os.EX_NOPERM
    assert "/nonexistent" in wrong.stderr and len(wrong.stderr.splitlines()) == 1


def test_a_state_directory_that_cannot_be_used_is_named_with_what_to_do(puller: Puller) -> None:
    config = puller.root / "stub.conf"
    text = config.read_text()
    (puller.root / "file").write_text("")
    for place in ("/proc/nothing", str(puller.root / "file")):
        config.write_text(re.sub("(?m)^state = .*", f'state = "{place}"', text))
        for arguments in (["--check"], ["--once"]):
            done = puller.run(*arguments)
            assert done.returncode == os.EX_OSERR, done.stderr
            assert f"state: {place} cannot be used: " in done.stderr
            assert "; make it a directory of the user who runs http2mbox, or set [http2mbox] state" in done.stderr
            assert "Errno" not in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--once", "--interval", "3"], 64, "exclude each other"),
        (["--interval", "0"], 64, "at least"),
        (["--account", "nobody"], 64, "not a mail address"),
        (["--account", "eve@beta.example"], 78, "has no account eve@beta.example"),
    ],
)
def test_wrong_arguments(puller: Puller, arguments: list[str], status: int, says: str) -> None:
    done = puller.run(*arguments)
    assert done.returncode == status
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_missing_configuration_shows_a_sample(tmp_path: Path, puller: Puller) -> None:
    done = puller.run(config=tmp_path / "none.conf")
    assert done.returncode == 78
    assert "[http2mbox]" in done.stdout and "state =" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("mbox:", "pipe:../", "must begin with an absolute path"),
        ("gnupghome = ", 'password = "{PLAIN}x"\n#', "no account"),
        ('gnupghome = "', 'gnupghome = "/nonexistent', "there is no GnuPG home"),
    ],
)
def test_an_account_that_cannot_get_mail(puller: Puller, old: str, new: str, says: str) -> None:
    puller.users.write_text(puller.users.read_text().replace(old, new))
    done = puller.run("--once")
    assert done.returncode == 78
    assert says in done.stderr
