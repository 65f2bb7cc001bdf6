"""`stubmail held` and `stubmail contacts` beside a real puller, a real store and a key server."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from commands.contacts import contacts
from commands.held import held
from stubmail.address import Address
from stubmail.keyring import Keyring
from stubmail.mbox import Mbox
from stubmail.openpgp import Identity
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone
from tests.support.alpha import ALICE, BOB, ZONE, Alpha, alpha
from tests.support.gpg import GpgHome, gpg_home, need
from tests.support.ports import LOOPBACK
from tests.support.waiting import wait_until

CAROL = Address.parse("carol@alpha.example")
MESSAGE = b"From: %s\r\nSubject: hello\r\n\r\nText\r\n"
FROM_ALICE = MESSAGE % str(ALICE).encode()


@dataclass
class People:
    """Bob knows alice; carol, who has an account at alice's store, is a stranger."""

    alice: Identity
    bob: GpgHome
    carol: Identity
    carol_key: bytes


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    need("gpg", "gnupg")
    with gpg_home() as alice, gpg_home() as bob, gpg_home() as carol:
        for home, user_id in ((alice, f"Alice <{ALICE}>"), (bob, f"Bob <{BOB}>"), (carol, f"Carol <{CAROL}>")):
            home.generate(user_id)
        bob.run("--import", data=alice.export(str(ALICE)))
        with Keyring(alice.path).identity(ALICE) as one, Keyring(carol.path).identity(CAROL) as other:
            yield People(one, bob, other, Keyring(carol.path).export(CAROL).armored())


@pytest.fixture(scope="module")
def world(people: People, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alpha]:
    directory = tmp_path_factory.mktemp("alpha")
    with alpha(directory, people.alice, Keyring(people.bob.path).export(BOB)) as found:
        accounts = directory / "accounts.toml"
        fingerprint = people.carol.fingerprint
        accounts.write_text(
            f'{accounts.read_text()}[accounts.carol]\naddress = "{CAROL}"\nfingerprint = "{fingerprint}"\n'
        )
        found.store.send_signal(signal.SIGHUP)
        wait_until(lambda: carols(found, people).client().open().max_post > 0, 20, "the store's reload")
        yield found


def carols(world: Alpha, people: People) -> Alpha:
    """Carol, as one who stores for bob."""
    return Alpha(world.directory, people.carol, world.bob, world.dns, world.store, sender=CAROL)


class KeyServer(ThreadingHTTPServer):
    """Answers every question with one key."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.key = b""


class _Handler(BaseHTTPRequestHandler):
    server: KeyServer

    def do_GET(self) -> None:
        self.send_response(200 if self.server.key else 404)
        self.send_header("Content-Length", str(len(self.server.key)))
        self.end_headers()
        self.wfile.write(self.server.key)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def key_server() -> Iterator[KeyServer]:
    with KeyServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@dataclass
class Bob:
    """Bob's puller: its files below ``root``, and the commands beside it."""

    root: Path
    world: Alpha
    home: Path

    def pull(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services.http2mbox", "--config", str(self.root / "stub.conf"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def held(self, *arguments: str) -> Result:
        return CliRunner().invoke(held, [*arguments, "--config", str(self.root / "stub.conf")])

    def contacts(self, *arguments: str, typed: str = "") -> Result:
        return CliRunner().invoke(contacts, [*arguments, "--config", str(self.root / "stub.conf")], input=typed)

    def messages(self) -> list[bytes]:
        """What is in the maildrop apart from notices."""
        snapshot = Mbox(self.root / "mbox").snapshot()
        found = [b"".join(snapshot.chunks(at)) for at in range(len(snapshot))]
        return [message for message in found if not message.startswith(b"From: Mail Delivery System")]

    def hold(self) -> str:
        """Let a post wait that is not signed, and pull; return its id."""
        post_id = secrets.token_bytes(16)
        gpg = GpgHome(self.home)
        sealed = gpg.run("--encrypt", "--trust-model=always", "-r", str(BOB), data=FROM_ALICE).stdout
        self.world.put([(post_id, sealed)])
        done = self.pull("--once")
        assert " held=1 " in done.stdout, done.stderr
        return post_id.hex()


@pytest.fixture
def bob(world: Alpha, people: People, key_server: KeyServer, tmp_path: Path) -> Iterator[Bob]:
    with (world.directory / "stub.conf").open("rb") as file:
        store = tomllib.load(file)["post_manager"]
    zone = ZONE.format(http=store["listen"].rpartition(":")[2], udp=store["udp_listen"].rpartition(":")[2])
    zone = zone.replace("11371", str(key_server.server_port))
    (tmp_path / "users.toml").write_text(
        f'[users.bob]\naddress = "{BOB}"\ngnupghome = "{people.bob.path}"\nmaildrop = "mbox:{tmp_path / "mbox"}"\n'
    )
    with NameServer([parse_zone(zone)]) as dns:
        (tmp_path / "stub.conf").write_text(f"""\
[dns]
resolver = "{dns.address[0]}:{dns.address[1]}"
allow_private = true
[http2mbox]
admin_listen = ""
users = "{tmp_path / "users.toml"}"
state = "{tmp_path / "state"}"
""")
        yield Bob(tmp_path, world, people.bob.path)
    world.clear()


def test_what_is_held_is_listed_and_shown_with_its_reason(bob: Bob) -> None:
    post_id = bob.hold()
    (row,) = json.loads(bob.held("list", "--json").stdout)
    assert (row["id"], row["reason"], row["address"], row["account"]) == (post_id, "unsigned", str(ALICE), str(BOB))
    line = bob.held("list").stdout
    assert line.startswith(post_id) and line.endswith("unsigned: the message is not signed\n")
    assert json.loads(bob.held("show", post_id, "--json").stdout) == row
    assert "reason      unsigned\n" in bob.held("show", post_id).stdout


def test_a_released_post_is_delivered_once_and_the_sender_sees_it_fetched(bob: Bob) -> None:
    post_id = bob.hold()
    done = bob.held("release", post_id)
    assert (done.exit_code, done.stdout) == (0, f"{post_id}  delivered\n"), done.output
    (message,) = bob.messages()
    assert message.startswith(b"X-Stub-Warning: NOT VERIFIED (unsigned): the message is not signed; released by hand")
    assert message.endswith(FROM_ALICE)
    assert bob.world.states() == {bytes.fromhex(post_id): "fetched"}
    assert bob.pull("--once", "--full").returncode == 1
    assert len(bob.messages()) == 1
    assert bob.held("release", post_id).exit_code == os.EX_DATAERR


def test_a_dropped_post_is_gone_from_the_store(bob: Bob) -> None:
    post_id = bob.hold()
    done = bob.held("drop", post_id, "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {post_id: "dropped"})
    assert bob.messages() == []
    assert bob.world.states() == {bytes.fromhex(post_id): "fetched"}
    assert json.loads(bob.held("list", "--json").stdout) == []


def test_what_cannot_be_decrypted_stays_held(bob: Bob) -> None:
    post_id = secrets.token_bytes(16)
    bob.world.put([(post_id, b"<html>Welcome to our hotel</html>" * 9)])
    bob.pull("--once")
    done = bob.held("release", post_id.hex())
    assert (done.exit_code, done.stdout) == (os.EX_DATAERR, f"{post_id.hex()}  held\n")
    assert json.loads(bob.held("list", "--json").stdout)[0]["decision"] == ""


def test_a_puller_at_work_carries_it_out(bob: Bob) -> None:
    post_id = bob.hold()
    command = [sys.executable, "-m", "services.http2mbox", "--config", str(bob.root / "stub.conf"), "--interval", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            heartbeat = bob.root / "state" / "heartbeat"
            wait_until(heartbeat.exists, 20)
            assert bob.held("release", post_id).exit_code in (0, os.EX_TEMPFAIL)  # done, or it will be
            wait_until(lambda: len(bob.messages()) == 1, 20, "the delivery")
        finally:
            daemon.terminate()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("show", "00"), os.EX_USAGE),
        (("show", "00" * 16), os.EX_DATAERR),
        (("drop", "00" * 16), os.EX_DATAERR),
        (("list", "--account", "eve@beta.example"), os.EX_NOUSER),
    ],
)
def test_wrong_arguments(bob: Bob, arguments: tuple[str, ...], status: int) -> None:
    assert bob.held(*arguments).exit_code == status


def test_a_stranger_is_pending_until_she_is_accepted_and_her_mail_comes(
    bob: Bob, people: People, key_server: KeyServer
) -> None:
    carol = carols(bob.world, people)
    key_server.key = people.carol_key
    try:
        carol.send(MESSAGE % str(CAROL).encode())
        assert "strangers=1" in bob.pull("--once").stdout
        (row,) = json.loads(bob.contacts("pending", "--json").stdout)
        assert (row["address"], row["fingerprint"], row["count"]) == (str(CAROL), people.carol.fingerprint, 1)
        no = bob.contacts("accept", str(CAROL), typed="n\n")
        assert no.exit_code == 1
        assert f"fingerprint  {people.carol.fingerprint}\n" in no.output
        assert bob.messages() == []
        yes = bob.contacts("accept", str(CAROL), "--yes")
        assert yes.exit_code == 0, yes.output
        assert len(bob.messages()) == 1
        assert bob.contacts("pending").stdout == ""
    finally:
        carol.clear()
        GpgHome(people.bob.path).run("--batch", "--yes", "--delete-keys", people.carol.fingerprint)


def test_a_key_server_with_another_key_than_the_mail_is_under_is_refused(
    bob: Bob, people: People, key_server: KeyServer
) -> None:
    carol = carols(bob.world, people)
    try:
        carol.send(MESSAGE % str(CAROL).encode())
        bob.pull("--once")
        with gpg_home() as other:
            other.generate(f"Carol <{CAROL}>")
            key_server.key = Keyring(other.path).export(CAROL).armored()
        wrong = bob.contacts("accept", str(CAROL), "--yes")
        assert wrong.exit_code == os.EX_NOPERM
        assert people.carol.fingerprint in wrong.output and "nothing was imported" in wrong.output
    finally:
        carol.clear()


def test_a_stranger_without_a_key_cannot_be_accepted(bob: Bob, key_server: KeyServer) -> None:
    key_server.key = ""
    nobody = bob.contacts("accept", str(CAROL), "--yes")
    assert nobody.exit_code == os.EX_NOUSER
    assert f"no key for {CAROL}; ask its owner to publish one, nothing was imported" in nobody.output


def test_a_refused_stranger_is_not_heard_of_again(bob: Bob, people: People) -> None:
    carol = carols(bob.world, people)
    try:
        carol.send(MESSAGE % str(CAROL).encode())
        bob.pull("--once")
        assert bob.contacts("refuse", str(CAROL)).exit_code == 0
        assert "strangers=0" in bob.pull("--once", "--full").stdout
        assert bob.contacts("pending", "--json").stdout == "[]\n"
    finally:
        carol.clear()


def test_a_correspondent_whose_key_is_in_the_keyring_already_keeps_it(
    bob: Bob, people: People, key_server: KeyServer
) -> None:
    with gpg_home() as other:
        other.generate(f"Alice <{ALICE}>")
        key_server.key = Keyring(other.path).export(ALICE).armored()
    wrong = bob.contacts("accept", str(ALICE), "--yes")
    assert wrong.exit_code == os.EX_NOPERM
    assert people.alice.fingerprint in wrong.output
