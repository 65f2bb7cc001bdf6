"""A disk without room: what cannot be kept is refused whole, what is kept stays, and room alone brings all back."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import LOOPBACK
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.store import BOUNDARY, URL, Person, Talker, code
from tests.support.waiting import wait_until

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
RESERVE = 2 * 2**20
SIZE = 24 * 2**20
MOST = 200  # posts of POST octets, which are more than the disk takes
POST = 300_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, [ALICE], SIZE, reserve_bytes=RESERVE) as store:
        yield store


def store_until_full(alice: Talker) -> dict[bytes, bytes]:
    """Store posts until there is no room; return those that are stored."""
    kept: dict[bytes, bytes] = {}
    for _ in range(MOST):
        body, post_id = os.urandom(POST), secrets.token_bytes(16)
        response = send(alice, post_id, body)
        if response.status_code != 200:
            assert (response.status_code, code(response)) == (507, "no-space")
            return kept
        assert response.get_json()["results"][0]["state"] == "stored"
        kept[post_id] = b"head" + body
    raise AssertionError("the disk was never full")


def send(alice: Talker, post_id: bytes, body: bytes):  # type: ignore[no-untyped-def]
    post = {"id": post_id.hex(), "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 1}
    return alice.send("store", {"posts": [post]}, [b"head", body])


def assert_kept(alice: Talker, bob: Talker, kept: dict[bytes, bytes]) -> None:
    assert {item["id"] for item in alice.outbox(states=["waiting"])} == {post_id.hex() for post_id in kept}
    for post_id, content in kept.items():
        assert bob.fetch((post_id, 0))[0][1] == content


def test_posts_are_refused_whole_and_acknowledgements_make_room(store: SmallDisk) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    kept = store_until_full(alice)
    assert len(kept) > 5
    assert store.free() > RESERVE // 4  # what frees room has room to be written
    assert list((store.inside / "incoming").iterdir()) == []
    assert_kept(alice, bob, kept)
    bob.ack(*kept)
    assert_kept(alice, bob, {})
    again = store_until_full(alice)
    assert len(again) > 5
    assert_kept(alice, bob, again)


def test_a_disk_that_others_have_filled_to_the_last_octet(store: SmallDisk) -> None:
    """Nothing can be written, the log included; nothing is half-stored, and room alone makes all work again."""
    alice, bob = store.talker(ALICE), store.talker(BOB)
    first, content = alice.keep(BOB, b"kept" * 50_000)[0], b"head" + b"kept" * 50_000
    store.fill()
    assert store.free() == 0
    refused = [secrets.token_bytes(16) for _ in range(20)]
    for number, post_id in enumerate(refused):
        response = send(alice, post_id, os.urandom((100, 50_000, 2_000_000)[number % 3]))
        assert (response.status_code, code(response)) == (507, "no-space")
    for op, members in (("list", {"senders": [ALICE.fingerprint], "after": 0, "limit": 10}), ("ack", {"ids": []})):
        assert bob.send(op, members).status_code in (200, 507)
    assert store.ask_admin("/livez").status_code == 200
    store.clear()
    assert_kept(alice, bob, {first: content})
    second, _ = alice.keep(BOB, os.urandom(1_000_000))
    bob.ack(first, second)
    assert [sent["state"] for sent in alice.outbox()] == ["fetched", "fetched"]


def test_a_disk_that_fills_while_a_post_comes_in(store: SmallDisk) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    small, _ = alice.keep(BOB, b"small")
    body = os.urandom(3_000_000)
    post = {"id": secrets.token_hex(16), "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 1}
    request = alice.request("store", {"posts": [post]}, [b"head", body])
    octets = alice.body(json.dumps(request).encode(), [b"head", body])
    before = store.free()
    with socket.create_connection((LOOPBACK, store.http), timeout=30) as client:
        header = f"POST {URL} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(octets)}\r\n"
        client.sendall(f"{header}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode())
        client.sendall(octets[:2_000_000])
        wait_until(lambda: store.free() < before - 2**20, what="the upload's file")
        store.fill()
        with contextlib.suppress(ConnectionError):
            client.sendall(octets[2_000_000:])
        assert client.recv(100).startswith(b"HTTP/1.1 507 ")
    store.clear()
    wait_until(lambda: before - store.free() < 2**20, what="the upload's room")
    assert_kept(alice, bob, {small: b"headsmall"})
    alice.keep(BOB, body)


def test_a_journal_that_a_reader_keeps_from_shrinking(store: SmallDisk) -> None:
    """What reads for long, such as a backup, has the journal grow; the end of it is the end of that."""
    alice, bob = store.talker(ALICE), store.talker(BOB)
    post_id, _ = alice.keep(BOB, b"before")
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN'); "
    script += "print(c.execute('SELECT count(*) FROM posts').fetchone()[0], flush=True); sys.stdin.read()"
    command = [
        "nsenter",
        "--mount",
        f"--target={store.pid}",
        sys.executable,
        "-c",
        script,
        str(store.spool / "store.db"),
    ]
    if os.geteuid() != 0:
        command[1:1] = ["--user", "--preserve-credentials"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        assert reader.stdout.readline() == b"1\n"
        kept = store_until_full(alice)
        bob.ack(*kept)
        reader.stdin.close()
        assert reader.wait(30) == 0
    again = store_until_full(alice)
    assert len(again) > 5
    assert_kept(alice, bob, again | {post_id: b"headbefore"})
