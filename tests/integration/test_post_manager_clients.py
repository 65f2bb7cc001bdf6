"""Clients that stall, lie about lengths, break off, or are too large: the store stays small, and there for others."""

import json
import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubmail.frames import Frame
from tests.support.ports import LOOPBACK
from tests.support.store import BOUNDARY, URL, Person, Talker, multipart, read_frames
from tests.support.store_process import StoreProcess, descendants, store_process
from tests.support.waiting import wait_until

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    with store_process(tmp_path_factory.mktemp("store"), [ALICE], threads=2) as store:
        yield store


def header(length: int, connection: str = "close") -> bytes:
    lines = [
        f"POST {URL} HTTP/1.1",
        "Host: x",
        f"Connection: {connection}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def receive_all(client: socket.socket) -> bytes:
    data = b""
    try:
        while piece := client.recv(65_536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def proportional_memory(pid: int) -> int:
    """The memory of all processes below one, shared pages shared out, in octets."""
    total = 0
    for each in descendants(pid):
        match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
        total += int(match[1]) * 1024 if match else 0
    return total


def store_request(talker: Talker, *parts: bytes) -> tuple[bytes, bytes]:
    """A post's id and the body of the request that stores it."""
    post_id = secrets.token_bytes(16)
    post = {"id": post_id.hex(), "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 1}
    return post_id, talker.body(json.dumps(talker.request("store", {"posts": [post]}, parts)).encode(), parts)


def test_a_gigabyte_is_refused_at_the_header(store: StoreProcess) -> None:
    with socket.create_connection((LOOPBACK, store.http)) as client:
        client.settimeout(30)
        client.sendall(header(2**30, "keep-alive"))
        answer = receive_all(client)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert b'"too-large"' in answer
    sent = 0
    with socket.create_connection((LOOPBACK, store.http)) as client:
        client.settimeout(30)
        try:
            client.sendall(header(2**30))
            while sent < 2**30:
                sent += client.send(bytes(65_536))
        except OSError:
            pass
    assert sent < 16 * 2**20  # what the two kernels buffer, and not a gigabyte


def test_a_refusal_arrives_although_the_body_is_still_being_sent(store: StoreProcess) -> None:
    stale = store.talker(ALICE)
    stale.session["session"] = "0" * 32
    for size in (500_000, 30_000_000):
        _, body = store_request(stale, b"head", bytes(size))
        with socket.create_connection((LOOPBACK, store.http)) as client:
            client.settimeout(30)
            try:
                client.sendall(header(len(body)) + body)
            except OSError:
                assert size > 1_000_000  # the store hung up in the middle
            assert b'"session"' in receive_all(client)


def test_a_connection_is_good_for_more_after_a_refusal(store: StoreProcess) -> None:
    body = multipart([("request", b"{}"), ("mac", b"")])
    with socket.create_connection((LOOPBACK, store.http)) as client:
        client.settimeout(30)
        for _ in range(3):
            client.sendall(header(len(body), "keep-alive") + body)
            answer = b""
            while b'"time"' not in answer:
                answer += client.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_body_that_breaks_off_leaves_nothing(store: StoreProcess) -> None:
    alice = store.talker(ALICE)
    post_id, body = store_request(alice, b"head", os.urandom(3_000_000))
    broken = store.text().count("breaks off") + store.text().count("shorter than")
    for cut in (100, 1_000, 70_000, len(body) - 1_000_000, len(body) - 1):
        _, body = store_request(alice, b"head", os.urandom(3_000_000))
        with socket.create_connection((LOOPBACK, store.http)) as client:
            client.sendall((header(len(body)) + body)[: cut + len(header(len(body)))])
            client.shutdown(socket.SHUT_WR)
            client.settimeout(30)
            receive_all(client)
    wait_until(lambda: store.text().count("breaks off") + store.text().count("shorter than") >= broken + 5)
    assert post_id.hex() not in {sent["id"] for sent in alice.outbox()}
    assert list((store.spool / "incoming").iterdir()) == []


def test_a_chunked_request_needs_a_length(store: StoreProcess) -> None:
    with socket.create_connection((LOOPBACK, store.http)) as client:
        client.settimeout(30)
        chunked = header(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        client.sendall(chunked + b"5\r\nhello\r\n0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 411 ")


def test_fifty_megabytes_pass_in_little_memory(store: StoreProcess) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    alice.keep(BOB, os.urandom(2_000_000))
    body = os.urandom(50_000_000)
    before = proportional_memory(store.pid)
    post_id, request = store_request(alice, b"head", body)
    assert store.post(request).get_json()["results"][0]["state"] == "stored"
    after_store = proportional_memory(store.pid)
    [(frame, content)] = bob.fetch((post_id, 0))
    after_fetch = proportional_memory(store.pid)
    assert frame == Frame(post_id, 0, 0, len(body) + 4)
    assert content == b"head" + body
    assert max(after_store, after_fetch) - before < 48 * 2**20
    bob.ack(post_id)


def test_a_fetch_goes_on_where_it_broke_off(store: StoreProcess) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    body = os.urandom(20_000_000)
    post_id, _ = alice.keep(BOB, body)
    octets = json.dumps(bob.request("fetch", {"posts": [{"id": post_id.hex(), "offset": 0}]})).encode()
    request = bob.body(octets)
    with socket.create_connection((LOOPBACK, store.http)) as client:
        client.settimeout(30)
        client.sendall(header(len(request)) + request)
        received = b""
        while len(received) < 5_000_000:
            received += client.recv(65_536)
    offset = 1_234_567
    [(frame, content)] = bob.fetch((post_id, offset))
    assert (frame.offset, content) == (offset, (b"head" + body)[offset:])
    bob.ack(post_id)


def test_clients_that_stall_are_disconnected_and_others_are_served(tmp_path: Path) -> None:
    """Two threads, and as many clients that send half a header or half a body and then nothing."""
    with store_process(tmp_path, [ALICE], threads=2, timeout_seconds=1.0) as store:
        alice = store.talker(ALICE)
        _, upload = store_request(alice, b"head", os.urandom(10_000))
        stalled = [header(100)[:20], header(len(upload)) + upload[:6_000]]
        clients = []
        try:
            for data in stalled:
                client = socket.create_connection((LOOPBACK, store.http))
                clients.append(client)
                client.sendall(data)
            store.wait_for("stalled", times=2)
            assert store.ready()
        finally:
            for client in clients:
                client.close()
        assert alice.outbox() == []
        assert store.end(signal.SIGTERM) == 0


def test_whole_answers_are_chunked_and_end_properly(store: StoreProcess) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    ids = [alice.keep(BOB, bytes([number]) * 10_000)[0] for number in range(20)]
    response = bob.send("fetch", {"posts": [{"id": post_id.hex(), "offset": 0} for post_id in ids]})
    assert [frame.id for frame, _ in read_frames(response.data)] == ids
    bob.ack(*ids)
