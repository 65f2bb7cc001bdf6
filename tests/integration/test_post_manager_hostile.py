"""Requests as nobody should send them: each gets a clear refusal or a closed connection, and others never notice."""

import contextlib
import json
import os
import random
import re
import resource
import secrets
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import LOOPBACK
from tests.support.store import BOUNDARY, HOST, URL, Person, Talker, multipart
from tests.support.store_process import StoreProcess, descendants, store_process
from tests.support.waiting import wait_until

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
TYPE = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
SMALL = multipart([("request", b"{}"), ("mac", b"")])
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SEED = int(os.environ.get("STUBMAIL_SEED", "3"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    with store_process(tmp_path_factory.mktemp("store"), [ALICE], threads=2, timeout_seconds=2.0) as store:
        yield store
        assert "Traceback" not in store.text()


def head(*lines: str, version: str = "1.1", target: str = URL) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/{version}", "Host: x", TYPE, *lines, "", ""]).encode()


def say(store: StoreProcess, *pieces: bytes, finish: bool = True) -> bytes:
    """Send octets, and return all that comes back until the store hangs up."""
    with socket.create_connection((LOOPBACK, store.http), timeout=20) as client:
        with contextlib.suppress(OSError):  # it may have hung up already
            for piece in pieces:
                client.sendall(piece)
            if finish:
                client.shutdown(socket.SHUT_WR)
        return receive(client)


def receive(client: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65_536):
            data += piece
    return data


def refusal(answer: bytes) -> tuple[int, str]:
    """The status and the code of an answer; there must be exactly one."""
    assert answer.count(b"HTTP/1.") == 1, answer
    body = answer.partition(b"\r\n\r\n")[2]
    return int(answer.split()[1]), json.loads(body)["error"] if body.startswith(b"{") else ""


@pytest.mark.parametrize(
    ("octets", "status", "code"),
    [
        (head("Content-Length: 5", "Content-Length: 6", "Connection: close") + b"hello", {400}, "http"),
        (head("Content-Length: 5", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", {400}, "http"),
        (head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", {411}, "length-required"),
        (head("Transfer-Encoding: gzip") + b"hello", {400, 411, 501}, "http"),
        (head(), {411}, "length-required"),
        (head("Content-Length: +5") + b"hello", {400}, "http"),
        (head("Content-Length: 5_0") + b"hello", {400}, "http"),
        (head("Content-Length: -1") + b"hello", {400}, "http"),
        (head("Content-Length: " + "9" * 400), {413}, "too-large"),
        (head(f"Content-Length: {2**64 + 5}") + b"hello", {413}, "too-large"),
        (head(*(f"X-{number}: y" for number in range(60)), "Content-Length: 0"), {400, 431}, "http"),
        (head("X-Long: " + "y" * 8_000, "Content-Length: 0"), {400, 431}, "http"),
        (head("Content-Length: 0", target="/" + "x" * 5_000), {400, 414}, "http"),
        (head("Content-Length : 5") + b"hello", {400}, "http"),
        (head("Content-Length: 5", " folded: yes") + b"hello", {400}, "http"),
        (head("X: \0", "Content-Length: 0"), {400}, "http"),
        (head("Content-Length: 0", version="9.9"), {400, 505}, "http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", {400}, "http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}, "http"),
        (b"STUB\r\n\r\n", {400}, "http"),
        (head("Content-Length: 0", target="/elsewhere"), {404}, "not-found"),
        (head("Content-Length: 0", target=f"{URL}/../{URL}"), {404}, "not-found"),
    ],
    ids=lambda value: value[:60].decode("latin-1").replace("\r\n", " ") if isinstance(value, bytes) else "",
)
def test_a_header_that_lies_or_is_none(store: StoreProcess, octets: bytes, status: set[int], code: str) -> None:
    answer = refusal(say(store, octets))
    assert answer[0] in status, answer
    assert answer[1] == code


def test_what_is_no_http_request_is_counted_and_logged(store: StoreProcess) -> None:
    name = 'stubmail_store_refusals_total{code="http"}'
    before = store.metrics()[name]
    assert refusal(say(store, b"STUB\r\n\r\n")) == (400, "http")
    assert refusal(say(store, head("Content-Length: 0", "Host: y"))) == (400, "http")
    assert store.metrics()[name] == before + 2
    store.wait_for("refused status=400 reason=")


def test_old_and_unusual_ways_to_ask_are_understood(store: StoreProcess) -> None:
    length = f"Content-Length: {len(SMALL)}"
    assert refusal(say(store, head(length, version="1.0") + SMALL)) == (400, "malformed")
    absolute = head(length, "Connection: close", target=f"http://{HOST}{URL}")
    assert refusal(say(store, absolute + SMALL)) == (400, "malformed")
    pipelined = say(store, (head(length) + SMALL) * 3)
    assert pipelined.count(b"HTTP/1.1 400 ") == pipelined.count(b'"malformed"') == 3


def tricks() -> Iterator[bytes]:
    dash = f"--{BOUNDARY}".encode()
    name = b'Content-Disposition: form-data; name="request"'
    yield b""
    yield dash
    yield dash + b"--"
    yield b"\r\n" + SMALL  # a preamble
    yield SMALL + b"epilogue"
    yield SMALL.replace(b"\r\n", b"\n")
    yield dash + b"\r\n\r\nno name\r\n" + dash + b"--\r\n"
    yield dash + b"\r\n" + name + b"\r\nContent-Transfer-Encoding: base64\r\n\r\ne30=\r\n" + dash + b"--\r\n"
    yield dash + b"\r\n" + name + b"\r\n" + name + b"\r\n\r\n{}\r\n" + dash + b"--\r\n"
    yield dash + b"\r\nX: " + b"y" * 100_000 + b"\r\n\r\n" + dash + b"--\r\n"
    yield dash + b"x\r\n" + name + b"\r\n\r\n{}\r\n" + dash + b"--\r\n"
    yield (dash + b"\r\n" + name + b"\r\n\r\n{}\r\n") * 10_000 + dash + b"--\r\n"
    yield multipart([("request", b"[" * 100_000), ("mac", bytes(32))])
    yield multipart([("request", b'{"a":' * 50_000), ("mac", bytes(32))])
    yield multipart([("request", b'{"version":1,"version":1}'), ("mac", bytes(32))])
    yield multipart([("request", b'{"version":1e400}'), ("mac", bytes(32))])
    yield multipart([("request", b'{"version":' + b"9" * 100_000 + b"}"), ("mac", bytes(32))])
    yield multipart([("request", b"\xff\xfe{}"), ("mac", bytes(32))])
    yield multipart([("mac", bytes(32)), ("request", b"{}")])


def test_bodies_that_are_no_multipart_or_too_much_of_one(store: StoreProcess) -> None:
    for body in tricks():
        answer = say(store, head(f"Content-Length: {len(body)}", "Connection: close") + body)
        assert refusal(answer) == (400, "malformed"), body[:80]


def store_body(talker: Talker, content: list[bytes], post_id: str | None = None, **spoil: object) -> tuple[str, bytes]:
    """A request that stores one post of two parts, spoilt."""
    post_id = post_id or secrets.token_hex(16)
    post = {"id": post_id, "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 1}
    request = talker.request("store", {"posts": [post]}, content) | spoil
    return post_id, talker.body(json.dumps(request).encode(), content)


def test_parts_that_are_not_what_was_said_and_many_of_them(store: StoreProcess) -> None:
    alice = store.talker(ALICE)
    parts = [b"head", os.urandom(200_000)]
    truth = alice.request("store", {}, parts)["parts"]
    lies = [
        [truth[0], truth[1] | {"sha256": "0" * 64}],
        [truth[0], truth[1] | {"size": 199_999}],
        [truth[0], truth[1] | {"size": 200_001}],
        [truth[1], truth[0]],
        [truth[0]],
        [*truth, truth[0]],
    ]
    codes = set()
    for lie in lies:
        _, body = store_body(alice, parts, parts=lie)
        codes.add(refusal(say(store, head(f"Content-Length: {len(body)}", "Connection: close") + body)))
    assert codes == {(400, "digest"), (400, "malformed"), (413, "too-large")}  # the last has a head of 200,000
    tiny = [b"x"] * 10_000
    _, body = store_body(alice, tiny)
    answer = refusal(say(store, head(f"Content-Length: {len(body)}", "Connection: close") + body))
    assert answer in {(400, "malformed"), (413, "too-large")}
    assert alice.outbox() == []
    assert list((store.spool / "incoming").iterdir()) == []


def test_who_asks_before_he_sends_is_told_at_once(store: StoreProcess) -> None:
    """RFC 9110 §10.1.1: a body that will be refused for its size is not asked for; one that will be read is."""
    before = octets_read(store)
    with socket.create_connection((LOOPBACK, store.http), timeout=20) as client:
        client.sendall(head("Content-Length: 1000000000", "Expect: 100-continue"))
        assert refusal(receive(client)) == (413, "too-large")  # with nothing before it
    assert octets_read(store) - before < 2**20
    alice = store.talker(ALICE)
    post_id, body = store_body(alice, [b"head", os.urandom(300_000)])
    with socket.create_connection((LOOPBACK, store.http), timeout=20) as client:
        for _ in range(2):  # on one connection
            client.sendall(head(f"Content-Length: {len(body)}", "expect: 100-Continue"))
            assert client.recv(65_536) == CONTINUE
            client.sendall(body)
            answer = receive_one(client)
            assert (answer.count(b"HTTP/1.1 "), answer.count(post_id.encode())) == (1, 1)
            _, body = store_body(alice, [b"head", b"again"], post_id)
        for _ in range(2):  # nothing to ask for, and nothing said behind the answer
            client.sendall(head("Content-Length: 0", "Expect: 100-continue"))
            assert refusal(receive_one(client)) == (400, "malformed")
    old = say(store, head(f"Content-Length: {len(SMALL)}", "Expect: 100-continue", version="1.0") + SMALL)
    assert refusal(old) == (400, "malformed")
    assert alice.withdraw(bytes.fromhex(post_id)) == ["withdrawn"]


def receive_one(client: socket.socket) -> bytes:
    """One answer that has a Content-Length, and whatever came with it."""
    data = b""
    while True:
        header, end, body = data.partition(b"\r\n\r\n")
        match = re.search(rb"(?i)\r\ncontent-length: (\d+)", header)
        if end and match and len(body) >= int(match[1]):
            return data
        piece = client.recv(65_536)
        assert piece, data
        data += piece


def test_connections_reset_anywhere_leave_nothing_and_stop_nobody(store: StoreProcess) -> None:
    alice = store.talker(ALICE)
    chance = random.Random(SEED)
    print(f"STUBMAIL_SEED={SEED}")
    ids = []
    for _ in range(40):
        post_id, body = store_body(alice, [b"head", chance.randbytes(chance.choice((10, 70_000, 1_500_000)))])
        ids.append(post_id)
        octets = head(f"Content-Length: {len(body)}") + body
        client = socket.create_connection((LOOPBACK, store.http), timeout=20)
        # Closing now sends a reset, not an end.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(ConnectionError):
            client.sendall(octets[: chance.randrange(len(octets))])
        client.close()
    wait_until(lambda: alice.send("outbox", {"after": 0, "limit": 10}).status_code == 200, 20, "an answer")
    assert not {sent["id"] for sent in alice.outbox()} & set(ids)
    post_id, _ = alice.keep(BOB, b"in good order")
    assert alice.withdraw(post_id) == ["withdrawn"]


def test_a_client_that_does_not_read_its_answer_is_disconnected(store: StoreProcess) -> None:
    """Two threads, and two who ask for much and read nothing: their time ends, and others are served."""
    alice, bob = store.talker(ALICE), store.talker(BOB)
    ids = [secrets.token_hex(16) for _ in range(1000)]  # small pieces: each of them gets time of its own
    posts = [{"id": each, "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 1} for each in ids]
    assert alice.send("store", {"posts": posts}, [b"head", os.urandom(20_000)]).status_code == 200
    stalled = store.text().count("stalled")
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            wanted = {"posts": [{"id": each, "offset": 0} for each in ids]}
            body = bob.body(json.dumps(bob.request("fetch", wanted)).encode())
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((LOOPBACK, store.http))
            client.sendall(head(f"Content-Length: {len(body)}") + body)
        store.wait_for("stalled", times=stalled + 2)
        bob.ack(*map(bytes.fromhex, ids))


def test_a_gigabyte_that_is_sent_blindly_is_answered_and_hardly_read(store: StoreProcess) -> None:
    before = octets_read(store)
    with socket.create_connection((LOOPBACK, store.http), timeout=20) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        client.setblocking(False)
        octets = head("Content-Length: 1073741824", "Connection: close") + bytes(65_536)
        with contextlib.suppress(OSError):  # until the store takes no more, or has hung up
            for _ in range(1000):
                client.send(octets)
                octets = bytes(65_536)
        client.setblocking(True)
        client.settimeout(20)
        assert refusal(receive(client)) == (413, "too-large")
    assert octets_read(store) - before < 2**20


def octets_read(store: StoreProcess) -> int:
    """How many octets the store's processes have read, from anywhere."""
    total = 0
    for pid in descendants(store.pid):
        with contextlib.suppress(OSError):
            match = re.search(r"rchar: (\d+)", Path(f"/proc/{pid}/io").read_text())
            total += int(match[1]) if match else 0
    return total


def test_hundreds_of_idle_connections_are_nobodys_trouble(store: StoreProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(socket.create_connection((LOOPBACK, store.http), timeout=20))
        alice = store.talker(ALICE)
        post_id, _ = alice.keep(BOB, b"served meanwhile")
        assert alice.withdraw(post_id) == ["withdrawn"]


def test_no_more_file_descriptors_is_a_trouble_that_passes(tmp_path: Path) -> None:
    with store_process(tmp_path, [ALICE], threads=2) as store:
        alice = store.talker(ALICE)
        for pid in descendants(store.pid):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(200):
                clients.append(stack.enter_context(socket.create_connection((LOOPBACK, store.http), timeout=20)))
            for client in clients[:100]:
                with contextlib.suppress(OSError):
                    client.sendall(head("Content-Length: 0")[:20])
            wait_until(lambda: most_open(store) >= 50, 20, "many open files")
        wait_until(lambda: most_open(store) < 50, 20, "the end of the connections")
        post_id, _ = alice.keep(BOB, os.urandom(3_000_000))
        assert alice.withdraw(post_id) == ["withdrawn"]
        assert store.stop() == 0


def most_open(store: StoreProcess) -> int:
    """How many files that process of the store has open that has most."""
    return max(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in descendants(store.pid))
