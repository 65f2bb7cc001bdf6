"""post_manager as processes: how it starts, refuses to, re-reads, drains, and comes back with everything it had."""

import contextlib
import json
import os
import secrets
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubmail.datagram import Unknown, Waiting, check_to_wire, unknown_to_wire
from tests.support.damaging import spoil
from tests.support.ports import LOOPBACK, free_port
from tests.support.store import BOUNDARY, URL, Person, Talker, code
from tests.support.store_process import StoreProcess, descendants, store_process
from tests.support.waiting import wait_until

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    with store_process(tmp_path, [ALICE]) as store:
        yield store


def test_a_post_goes_through_and_a_check_tells_of_it(store: StoreProcess) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    assert store.check(bob) == Waiting(0, 0)
    post_id, result = alice.keep(BOB, b"body" * 100_000)
    assert result["state"] == "stored"
    assert store.check(bob) == Waiting(1, bob.waiting(ALICE)["serial"])
    [(_, content)] = bob.fetch((post_id, 0))
    assert content == b"head" + b"body" * 100_000
    exported = store.run("export", post_id.hex())
    assert (exported.returncode, exported.stdout) == (0, content)
    bob.ack(post_id)
    assert store.check(bob) == Waiting(0, 0)
    assert f"{post_id.hex()} stored" in store.text()
    wait_until(lambda: f"{post_id.hex()} fetched" in store.text(), what="the log line, which may come after the answer")
    assert bob.session["secret"] not in store.text()
    assert bob.session["cookie_key"] not in store.text()
    assert store.run("export", post_id.hex()).returncode == os.EX_UNAVAILABLE
    assert store.stop() == 0


def test_posts_sessions_and_cookies_survive_sigterm_and_sigkill(store: StoreProcess) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    kept = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        kept.append(alice.keep(BOB, os.urandom(100_000))[0])
        store.end(number)
        store.start()
        assert [item["id"] for item in bob.waiting(ALICE)["posts"]] == [post_id.hex() for post_id in kept]
        assert store.check(bob) == Waiting(len(kept), bob.waiting(ALICE)["serial"])
    assert alice.keep(BOB, b"x", post_id=kept[0])[1]["state"] == "stored"
    assert len(alice.outbox()) == 2


def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    with store_process(tmp_path, [ALICE], udp_listen=f"{LOOPBACK}:0") as store:
        children = [pid for pid in descendants(store.pid) if pid != store.pid]
        for pid in children:
            with contextlib.suppress(ProcessLookupError):  # a worker does not outlive its master
                os.kill(pid, signal.SIGKILL)
        store.wait_for("died", times=2)
        store.wait_for("listening", times=4)
        assert store.stop() == 0


def test_sighup_reads_the_accounts_again_and_keeps_them_when_the_file_is_broken(store: StoreProcess) -> None:
    bob, carol = store.talker(BOB), Person("carol@alpha.example")
    assert code(bob.send("store", {"posts": []})) == "account"
    store.allow([ALICE, BOB])
    store.signal(signal.SIGHUP)
    store.wait_for("reloaded accounts=2")
    wait_until(lambda: bob.send("store", {"posts": []}).status_code == 200, what="bob's account")
    (store.root / "accounts.toml").write_text("[accounts")
    store.signal(signal.SIGHUP)
    store.wait_for("not-reloaded")
    assert store.talker(BOB).send("store", {"posts": []}).status_code == 200
    store.allow([carol])
    store.signal(signal.SIGHUP)
    store.wait_for("reloaded accounts=1")
    wait_until(lambda: bob.send("store", {"posts": []}).status_code == 403, what="the end of bob's account")


def test_requests_in_flight_are_answered_before_it_ends(store: StoreProcess) -> None:
    alice = store.talker(ALICE)
    post_id = secrets.token_bytes(16)
    post = {"id": post_id.hex(), "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 1}
    parts = [b"head", os.urandom(300_000)]
    request = alice.request("store", {"posts": [post]}, parts)
    body = alice.body(json.dumps(request).encode(), parts)
    with socket.create_connection((LOOPBACK, store.http)) as client:
        header = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        header += "Expect: 100-continue\r\n"
        client.sendall(f"{header}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode())
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n", "it is in flight"
        client.sendall(body[:200_000])
        store.signal(signal.SIGTERM)
        store.wait_for("post_manager.udp info - ended")
        client.sendall(body[200_000:])
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert store.stop() == 0
    assert f"{post_id.hex()} stored" in store.text()


def test_datagrams_that_deserve_no_answer_get_none(store: StoreProcess) -> None:
    bob = store.talker(BOB)
    cookie = bytes.fromhex(bob.session["cookie"])
    garbage = [b"", b"x" * 72, os.urandom(72), b"STUB\x01\x02\0\0" + bytes(60), bytes(5000)]
    forged = check_to_wire(cookie, bytes(16), bytes(32))
    nonce = os.urandom(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((LOOPBACK, store.udp))
        for data in (*garbage, forged, check_to_wire(os.urandom(16), nonce, bytes(32))):
            client.send(data)
        assert client.recv(2048) == unknown_to_wire(nonce)  # the first and only answer
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(2048)
    assert store.check(bob) == Waiting(0, 0)
    assert store.stop() == 0
    [line] = [line for line in store.text().splitlines() if "udp info - ended" in line]
    assert "checks_malformed=5" in line
    assert "checks_forged=1" in line


def test_a_file_that_is_damaged_while_it_serves_makes_it_unready(store: StoreProcess) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    post_id, _ = alice.keep(BOB, b"body")
    spoil(store.spool / "store.db", "posts_by_due")
    before = (store.spool / "store.db").read_bytes()
    answer = store.ask_admin("/readyz")
    assert answer.status_code == 503
    assert f"{store.spool}/store.db is damaged" in answer.get_json()["checks"]["damage"]
    assert b"stubmail_store_read_only 1.0" in store.ask_admin("/metrics").data
    assert store.ask_admin("/livez").status_code == 200
    store.wait_for("post_manager critical - damaged")
    bob = store.talker(BOB)
    assert [content for _, content in bob.fetch((post_id, 0))] == [b"headbody"]
    assert code(bob.send("ack", {"ids": [post_id.hex()]})) == "unavailable"
    assert store.stop() == 0
    assert (store.spool / "store.db").read_bytes() == before


def test_udp_can_be_turned_off(tmp_path: Path) -> None:
    store = StoreProcess(tmp_path, [ALICE], udp=False)
    store.udp = 1
    process = store.run("--check")
    assert process.returncode == 0, process.stderr


def test_a_cookie_from_another_store_is_unknown(store: StoreProcess) -> None:
    talker = Talker(store, BOB, {"cookie": "00" * 16, "cookie_key": "00" * 32})  # type: ignore[arg-type]
    assert store.check(talker) == Unknown()


def test_check_says_what_is_there(tmp_path: Path) -> None:
    store = StoreProcess(tmp_path, [ALICE])
    process = store.run("--check")
    assert process.returncode == 0
    assert b"post.alpha.example: 1 accounts" in process.stdout
    assert store.run("--version").returncode == 0
    assert b"Examples:" in store.run("--help").stdout


def one_sentence(process: object, status: int, *words: str) -> None:
    assert process.returncode == status, process  # type: ignore[attr-defined]
    lines = process.stderr.decode().strip().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


def test_a_missing_configuration_shows_a_sample(tmp_path: Path) -> None:
    store = StoreProcess(tmp_path, [])
    store.config.unlink()
    process = store.run()
    one_sentence(process, os.EX_CONFIG, "no configuration file", str(store.config))
    assert b"[post_manager]" in process.stdout
    assert b"accounts = " in process.stdout


def test_what_keeps_it_from_starting_is_said_in_one_sentence(tmp_path: Path) -> None:
    store = StoreProcess(tmp_path, [ALICE])
    (tmp_path / "accounts.toml").write_text("[accounts")
    one_sentence(store.run(), os.EX_CONFIG, "accounts.toml", "not valid TOML")
    store.allow([ALICE])
    store.spool.mkdir(mode=0o755)
    store.spool.chmod(0o755)
    one_sentence(store.run(), os.EX_CONFIG, "chmod 700", str(store.spool))
    store.spool.chmod(0o700)
    with contextlib.closing(sqlite3.connect(store.spool / "store.db")) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    one_sentence(store.run(), os.EX_DATAERR, "store.db", "other tables", "left as it is")
    (store.spool / "store.db").unlink()
    for key in ("LISTEN", "UDP_LISTEN"):
        kind = socket.SOCK_STREAM if key == "LISTEN" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as busy:
            busy.bind((LOOPBACK, 0))
            if kind == socket.SOCK_STREAM:
                busy.listen()
            address = f"{LOOPBACK}:{busy.getsockname()[1]}"
            one_sentence(
                store.run(environ={f"STUBMAIL_POST_MANAGER_{key}": address}), os.EX_UNAVAILABLE, address, "in use"
            )
    port = free_port()
    both = {f"STUBMAIL_POST_MANAGER_{key}": f"{LOOPBACK}:{port}" for key in ("LISTEN", "ADMIN_LISTEN")}
    one_sentence(store.run("--check", environ=both), os.EX_UNAVAILABLE, str(port), "in use")
    one_sentence(store.run(environ={"STUBMAIL_POST_MANAGER_DATABASE": "nonsense"}), os.EX_CONFIG, "database")
    database = "postgresql+nosuchdriver://localhost/x"
    one_sentence(store.run(environ={"STUBMAIL_POST_MANAGER_DATABASE": database}), os.EX_CONFIG, "database")
