"""The end of a post manager with requests in flight: they are completed, it says that it goes, and it does go."""

import contextlib
import json
import os
import secrets
import signal
import socket
from pathlib import Path

from stubmail.frames import CONTENT
from tests.support.ports import LOOPBACK
from tests.support.store import BOUNDARY, URL, Person, Talker, read_frames
from tests.support.store_process import StoreProcess, store_process
from tests.support.waiting import wait_until

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")


class InFlight:
    """One request on a connection of its own, sent and read as slowly as the test wants."""

    def __init__(self, store: StoreProcess, body: bytes, now: int, buffer: int | None = None) -> None:
        self.client = socket.socket()
        if buffer is not None:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.client.settimeout(30)
        self.client.connect((LOOPBACK, store.http))
        header = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n"
        self.client.sendall(f"{header}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode())
        assert self.client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n", "it is in flight"
        self.client.sendall(body[:now])
        self._rest = body[now:]

    def send_rest(self) -> None:
        """Complete the request."""
        self.client.sendall(self._rest)

    def answer(self) -> tuple[int, bytes]:
        """Read the answer to the connection's end; chunks are put together."""
        with self.client, self.client.makefile("rb") as file:
            status = int(file.readline().split()[1])
            chunked = False
            while (line := file.readline()) != b"\r\n":
                chunked = chunked or line.lower().startswith(b"transfer-encoding: chunked")
            if not chunked:
                return status, file.read()
            body = b""
            while size := int(file.readline(), 16):
                body += file.read(size)
                file.readline()
            return status, body


def upload(store: StoreProcess, alice: Talker) -> tuple[InFlight, bytes]:
    """Begin to store a post; most of it is not sent yet, and the store is waiting for it."""
    post_id = secrets.token_bytes(16)
    post = {"id": post_id.hex(), "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 1}
    parts = [b"head", os.urandom(3_000_000)]
    request = alice.request("store", {"posts": [post]}, parts)
    flight = InFlight(store, alice.body(json.dumps(request).encode(), parts), 1_500_000)
    return flight, post_id


def fetch(store: StoreProcess, bob: Talker, post_id: bytes) -> InFlight:
    """Begin to fetch a post; most of the answer is not taken yet."""
    request = bob.request("fetch", {"posts": [{"id": post_id.hex(), "offset": 0}]})
    flight = InFlight(store, body := bob.body(json.dumps(request).encode()), len(body), buffer=8192)
    assert flight.client.recv(1, socket.MSG_PEEK)
    return flight


def draining(store: StoreProcess) -> bool:
    with contextlib.suppress(ConnectionError):  # a worker that ends may take a question with it
        response = store.ask_admin("/readyz")
        return response.status_code == 503 and "draining" in response.get_json()["checks"]["running"]
    return False


def lives(store: StoreProcess) -> bool:
    with contextlib.suppress(ConnectionError):  # as above
        return store.ask_admin("/livez").status_code == 200
    return False


def refused(store: StoreProcess) -> bool:
    try:
        socket.create_connection((LOOPBACK, store.http), timeout=5).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def test_uploads_and_fetches_in_flight_are_completed(tmp_path: Path) -> None:
    with store_process(tmp_path, [ALICE], workers=2) as store:
        alice, bob = store.talker(ALICE), store.talker(BOB)
        large = os.urandom(20_000_000)
        large_id, _ = alice.keep(BOB, large)
        getting = fetch(store, bob, large_id)
        storing, new_id = upload(store, alice)
        store.signal(signal.SIGTERM)
        wait_until(lambda: draining(store), 30, "/readyz that says so")
        wait_until(lambda: lives(store), 30, "an answer")
        wait_until(lambda: refused(store), 30, "an end of new connections")
        storing.send_rest()
        status, body = storing.answer()
        assert (status, json.loads(body)["results"][0]["state"]) == (200, "stored")
        status, body = getting.answer()
        [(frame, content)] = read_frames(body)
        assert (status, frame.state, content) == (200, CONTENT, b"head" + large)
        assert store.stop() == 0
        assert f"{new_id.hex()} stored" in store.text()
        store.start()
        assert [post["id"] for post in bob.waiting(ALICE)["posts"]] == [large_id.hex(), new_id.hex()]


def test_load_balancers_get_time_to_notice(tmp_path: Path) -> None:
    with store_process(tmp_path, [ALICE], drain_notice_seconds=3600) as store:
        bob = store.talker(BOB)
        store.signal(signal.SIGTERM)
        wait_until(lambda: draining(store), 30, "/readyz that says so")
        assert bob.waiting(ALICE)["posts"] == []
        assert "stubmail_store_draining 1.0\n" in store.ask_admin("/metrics").data.decode()
        assert store.stop() == 0  # a second SIGTERM: nobody waits for an hour


def test_what_stalls_does_not_hold_up_the_end_for_longer_than_it_may(tmp_path: Path) -> None:
    with store_process(tmp_path, [ALICE], drain_seconds=1, timeout_seconds=3600) as store:
        storing, post_id = upload(store, store.talker(ALICE))
        assert store.stop() == 0
        storing.client.close()
        assert f"{post_id.hex()} stored" not in store.text()
        store.start()
        assert store.talker(BOB).waiting(ALICE)["posts"] == []


def test_a_second_sigterm_breaks_off_what_is_in_flight(tmp_path: Path) -> None:
    with store_process(tmp_path, [ALICE], drain_seconds=3600, timeout_seconds=3600) as store:
        storing, _ = upload(store, store.talker(ALICE))
        store.signal(signal.SIGTERM)
        wait_until(lambda: draining(store), 30, "/readyz that says so")
        assert store.stop() == 0
        storing.client.close()
        assert "supervisor warning - killed names=http" in store.text()


def test_sighup_is_no_end(tmp_path: Path) -> None:
    with store_process(tmp_path, [ALICE]) as store:
        alice = store.talker(ALICE)
        storing, post_id = upload(store, alice)
        before = store.ask_admin("/metrics").data.decode()
        store.signal(signal.SIGHUP)
        store.wait_for("reloaded")
        for _ in range(20):
            with contextlib.suppress(ConnectionResetError):  # a worker that ends may take a question with it
                assert store.ask_admin("/readyz").status_code == 200
            assert not refused(store)
        storing.send_rest()
        assert storing.client.recv(12) == b"HTTP/1.1 200"
        storing.client.close()
        store.wait_for(f"{post_id.hex()} stored")
        name = 'stubmail_store_requests_total{op="open"} 1.0\n'
        assert name in before

        def goes_on() -> bool:
            with contextlib.suppress(ConnectionResetError):  # as above
                return name in store.ask_admin("/metrics").data.decode()
            return False

        wait_until(goes_on, 30, "the numbers, from other workers")
        assert store.stop() == 0
