"""The UDP port as it is in use: tokens for HTTP, cookies that are flushed, floods, and a database that goes away."""

import contextlib
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.keys import store_key
from services.post_manager.tokens import SLOT_SECONDS, Tokens
from stubmail.datagram import (
    CHECK_SIZE,
    Unknown,
    Waiting,
    check_to_wire,
    token_from_wire,
    token_request_to_wire,
    unknown_to_wire,
)
from stubmail.keyring import Keyring
from stubmail.testing.plugin import StubNetwork
from stubmail.testing.walk import Correspondent, compose, walk
from tests.support.alpha import ALICE as ALICE_ADDRESS
from tests.support.alpha import BOB as BOB_ADDRESS
from tests.support.alpha import alpha
from tests.support.gpg import gpg_home, need
from tests.support.ports import LOOPBACK
from tests.support.store import BOUNDARY, URL, Person, Talker
from tests.support.store_process import StoreProcess, descendants, store_process
from tests.support.waiting import wait_until

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")
DEMANDING = {"require_udp": True, "token_exempt": []}


@pytest.fixture(scope="module")
def demanding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """A store that wants a token from everybody."""
    with store_process(tmp_path_factory.mktemp("demanding"), [ALICE], **DEMANDING) as store:
        yield store


def token_of(store: StoreProcess) -> str:
    nonce = secrets.token_bytes(16)
    answer = store.datagram(token_request_to_wire(nonce))
    assert answer is not None
    return token_from_wire(answer, nonce).octets.hex()


def announce(store: StoreProcess, length: int, *fields: str) -> socket.socket:
    """Send the header of a request, and nothing of the body that it announces."""
    lines = [
        f"POST {URL} HTTP/1.1",
        "Host: x",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {length}",
        *fields,
    ]
    client = socket.create_connection((LOOPBACK, store.http))
    client.settimeout(30)
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    return client


def answer_of(client: socket.socket) -> tuple[bytes, dict[str, Any]]:
    """The answer's header and its JSON, read to the end of the connection."""
    data = b""
    with client:
        while piece := client.recv(65_536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return head, json.loads(body)


def test_a_client_that_never_tried_udp_is_refused_at_the_header(demanding: StoreProcess) -> None:
    client = announce(demanding, 100_000_000)
    head, answer = answer_of(client)  # comes, and the connection ends, though no octet of the body was ever sent
    assert head.startswith(b"HTTP/1.1 403 ")
    assert answer["error"] == "token"


def test_what_such_a_client_sends_is_not_read(demanding: StoreProcess) -> None:
    received = "stubmail_store_received_bytes_total"
    before = demanding.metrics()[received]
    client = announce(demanding, 10_000_000)
    with contextlib.suppress(OSError):  # the store hangs up in the middle
        client.sendall(bytes(10_000_000))
    client.close()
    assert demanding.metrics()[received] == before


def test_a_token_is_good_over_http_and_another_s_is_not(demanding: StoreProcess) -> None:
    client = announce(demanding, 10, f"Stub-Token: {token_of(demanding)}", "Connection: close")
    client.sendall(b"0123456789")
    _, answer = answer_of(client)
    assert answer["error"] == "malformed", "the door was open"
    database = Database(sqlite_url(demanding.spool / "store.db"))
    with contextlib.closing(database):
        tokens, now = Tokens(store_key(database)), int(time.time())
    for token in (
        tokens.give("192.0.2.1", now),
        tokens.give(LOOPBACK, now - 2 * SLOT_SECONDS),
        Tokens(bytes(32)).give(LOOPBACK, now),
    ):
        _, answer = answer_of(announce(demanding, 10, f"Stub-Token: {token.octets.hex()}"))
        assert answer["error"] == "token"


def test_puller_and_gateway_get_through_by_themselves(tmp_path: Path) -> None:
    """Alice's client is the gateway's; bob's puller is the program itself; they find the UDP port in DNS."""
    need("gpg", "gnupg")
    message = b"From: Alice <alice@alpha.example>\r\nSubject: x\r\n\r\nbehind a door\r\n"
    with gpg_home() as alice_home, gpg_home() as bob_home:
        alice_home.generate(f"Alice <{ALICE_ADDRESS}>")
        bob_home.generate(f"Bob <{BOB_ADDRESS}>")
        bob_home.run("--import", data=alice_home.export(str(ALICE_ADDRESS)))
        settings = "require_udp = true\ntoken_exempt = []"
        bob = Keyring(bob_home.path).export(BOB_ADDRESS)
        with (
            Keyring(alice_home.path).identity(ALICE_ADDRESS) as identity,
            alpha(tmp_path, identity, bob, settings) as world,
        ):
            ids = world.send(message)
            config = tmp_path / "puller.conf"
            users = tmp_path / "users.toml"
            users.write_text(
                f'[users.bob]\naddress = "{BOB_ADDRESS}"\ngnupghome = "{bob_home.path}"\n'
                f'maildrop = "mbox:{tmp_path / "bob"}"\n'
            )
            config.write_text(
                f'[dns]\nresolver = "{world.resolver}"\nallow_private = true\n'
                f'[http2mbox]\nusers = "{users}"\nstate = "{tmp_path / "state"}"\n'
            )
            pulled = subprocess.run(
                [sys.executable, "-m", "services.http2mbox", "--config", str(config), "--once"],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert pulled.returncode == 0, pulled.stderr
            assert world.states() == dict.fromkeys(ids, "fetched")
    assert "reason=token" in (tmp_path / "store.log").read_text()


def test_a_whole_walk_between_stores_that_demand_tokens(
    stub_network: StubNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gateways and pullers as processes, on both sides; while the UDP port is silent, mail waits in the spool."""
    monkeypatch.setenv("STUBMAIL_POST_MANAGER_REQUIRE_UDP", "true")
    monkeypatch.setenv("STUBMAIL_POST_MANAGER_TOKEN_EXEMPT", "")
    network = stub_network({"alpha.example": ["alice"], "beta.example": ["bob"]})
    logs = {path.stem: path for path in (network.root / "logs").glob("*.log")}
    alice, bob = (Correspondent(*pair) for pair in zip(("alice", "bob"), network.domains.values(), strict=True))
    udp = network.domains["alpha.example"].links["udp"]
    udp.faults.cut = True
    alice.submit(bob.address, compose(alice.address, bob.address, "patience"))
    courier = logs["alpha.example_smtp2stub"]
    wait_until(lambda: b"wants a token, but its UDP port gives none" in courier.read_bytes(), 60, "a deferral")
    udp.faults.cut = False
    steps = [step.what for step in walk(network, time.monotonic())]
    assert "relayed" in steps
    assert any(b"Subject: patience" in message for message in bob.read())
    for domain in network.domains:
        store = logs[f"{domain}_post_manager"].read_text()
        assert "reason=token" in store, "nobody has a token at first"
        assert " stored " in store
        assert " fetched" in store


def test_flushed_cookies_are_unknown_with_the_next_check(tmp_path: Path, database_url: str) -> None:
    with store_process(tmp_path, [ALICE], database=database_url) as store:
        alice, bob = store.talker(ALICE), store.talker(BOB)
        assert store.check(alice) == store.check(bob) == Waiting(0, 0)
        done = store.run("cookies", "flush", "bob@beta.example")
        assert (done.returncode, done.stdout) == (0, b"1 cookie deleted\n"), done.stderr
        assert store.check(bob) == Unknown()
        assert store.check(alice) == Waiting(0, 0)
        assert store.run("cookies", "flush", BOB.fingerprint.lower()).stdout == b"0 cookies deleted\n"
        assert store.run("cookies", "flush").stdout == b"1 cookie deleted\n"
        assert store.check(alice) == Unknown()
        assert store.run("cookies", "flush", "nobody@beta.example").returncode == os.EX_NOUSER
        assert store.run("cookies", "flush", "ABCD").returncode == os.EX_USAGE
        assert store.stop() == 0


def notifier_of(store: StoreProcess) -> int:
    """The notifier's process id."""
    [pid] = [pid for pid in descendants(store.pid) if b"notifier" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def memory_of(pid: int) -> int:
    """Octets of memory that a process has of its own."""
    match = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) * 1024


def garbage(rng: random.Random, known: bytes) -> Iterator[bytes]:
    """Datagrams that deserve no answer, or one that is shorter: malformed, forged, of made-up cookies."""
    while True:
        yield rng.randbytes(rng.randrange(200))
        yield b"STUB\x01" + bytes((rng.randrange(8), 0, 0)) + rng.randbytes(64)
        yield check_to_wire(rng.randbytes(16), rng.randbytes(16), bytes(32))
        yield check_to_wire(known, rng.randbytes(16), bytes(32))
        yield token_request_to_wire(rng.randbytes(16))


class Flood:
    """Sends garbage from a thread, from sockets that are closed before the answers come, until it is stopped."""

    def __init__(self, store: StoreProcess, known: bytes, seed: int) -> None:
        self.sent = 0
        self._place = (LOOPBACK, store.udp)
        self._datagrams = garbage(random.Random(seed), known)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Flood":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set() and self.sent < 200_000:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for _ in range(100):
                    with contextlib.suppress(OSError):
                        client.sendto(next(self._datagrams), self._place)
                    self.sent += 1


def question_of(talker: Talker) -> bytes:
    key = bytes.fromhex(talker.session["cookie_key"])
    return check_to_wire(bytes.fromhex(talker.session["cookie"]), secrets.token_bytes(16), key)


def ask_until_answered(store: StoreProcess, talker: Talker) -> None:
    """Ask over and over: in a flood the kernel drops datagrams, whoever sent them."""
    wait_until(lambda: store.datagram(question_of(talker), 0.2), what="an answer")


def test_checks_are_answered_in_a_flood_of_garbage_and_memory_stays_flat(tmp_path: Path) -> None:
    with store_process(tmp_path, [ALICE]) as store:
        bob = store.talker(BOB)
        pid, cookie = notifier_of(store), bytes.fromhex(bob.session["cookie"])
        with Flood(store, cookie, seed=5) as flood:
            wait_until(lambda: flood.sent > 10_000, 30)
            before = memory_of(pid)
            wait_until(lambda: flood.sent > 40_000, 60)
            for _ in range(20):
                ask_until_answered(store, bob)
            assert memory_of(pid) - before < 2 * 2**20
            began = time.monotonic()
            os.kill(pid, signal.SIGTERM)
            store.wait_for("post_manager.udp info - ended")
            assert time.monotonic() - began < 5
        store.wait_for("post_manager.udp info - listening", times=2)  # it was not the store that was to end
        store.stop()
    line = next(line for line in store.text().splitlines() if "udp info - ended" in line)
    for outcome in ("malformed", "forged", "unknown", "answered"):
        assert f"checks_{outcome}=" in line
    assert "tokens_given=" in line


def test_answers_come_from_the_address_that_was_asked(tmp_path: Path) -> None:
    """On a socket for all addresses; 127.0.0.2 is this host, too, and no route would choose it by itself."""
    store = StoreProcess(tmp_path, [ALICE], udp_listen="0.0.0.0:0")
    nonce = secrets.token_bytes(16)
    command = [sys.executable, "-m", "services.post_manager.udp.notifier", "--config", str(store.config)]
    assert store.run("--check").returncode == 0
    with store.log.open("wb") as log, subprocess.Popen(command, stderr=log) as notifier:
        try:
            match = wait_until(lambda: re.search(r"listening address=0\.0\.0\.0:(\d+)", store.text()), 30)
            for address in ("127.0.0.2", LOOPBACK, "127.0.0.3"):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.settimeout(10)
                    client.connect((address, int(match[1])))  # hears nobody else
                    client.send(check_to_wire(secrets.token_bytes(16), nonce, bytes(32)))
                    assert client.recv(CHECK_SIZE) == unknown_to_wire(nonce)
        finally:
            notifier.terminate()
        assert notifier.wait(30) == 0


@pytest.mark.postgresql
def test_checks_go_on_after_the_database_server_was_restarted(tmp_path: Path) -> None:
    from tests.support.databases import prepared
    from tests.support.postgresql import running_cluster

    with running_cluster() as cluster:
        url = cluster.url(cluster.create())
        prepared(url).close()
        with store_process(tmp_path, [ALICE], database=url) as store:
            alice, bob = store.talker(ALICE), store.talker(BOB)
            pid = notifier_of(store)
            assert store.check(bob) == Waiting(0, 0)
            question = question_of(bob)
            cluster.kill()
            assert store.datagram(question, 0.3) is None, "silence: clients go on over HTTP"
            cluster.start()
            wait_until(lambda: store.datagram(question, 0.3), 30, "an answer")
            wait_until(lambda: alice.keep(BOB, b"x")[1]["state"] == "stored", 30)
            answer = store.check(bob)
            assert isinstance(answer, Waiting)
            assert answer.count == 1
            cluster.kill()
            assert store.datagram(question, 0.1) is None
            assert notifier_of(store) == pid
            began = time.monotonic()
            os.kill(pid, signal.SIGTERM)
            store.wait_for("post_manager.udp info - ended")
            assert time.monotonic() - began < 5
