"""A store that lies over real HTTP: nothing of it is delivered, nothing breaks, and other domains' mail comes."""

import asyncio
import contextlib
import gzip
import json
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.http2mbox.account import Account
from services.http2mbox.checks import Checks
from services.http2mbox.counters import Counters
from services.http2mbox.process import CookieKeeper
from services.http2mbox.pull import Client, Limits
from services.http2mbox.puller import Puller
from services.http2mbox.report import Report
from services.http2mbox.turns import Turns
from services.http2mbox.visits import Visits
from stubmail.address import Address
from stubmail.discovery import Resolver, Store, StubDomain, Target
from stubmail.envelope import Envelope, fill_up, tag
from stubmail.frames import ABSENT, CONTENT, END, MEDIA_TYPE, Frame
from stubmail.http_client import HttpClient
from stubmail.mbox import Mbox
from stubmail.openpgp import Certificate, encrypt
from stubmail.openpgp.unlocked import UnlockedIdentity
from tests.support.fake_store import ALICE, BOB, WHEN, FakeKeyring, FakeStore
from tests.support.keys import make_identity, make_key
from tests.support.ports import LOOPBACK

DAVE = Address("dave", "gamma.example")
MESSAGE = b"From: %s\r\n\r\nhonest\r\n"
IDS = [bytes([number] * 16) for number in (1, 2, 3)]
SIZE = 1000

GZIP = b"\x1f\x8b"
BOMB = gzip.compress(b"[" * 50_000_000)

Answer = tuple[int, str, bytes]
Script = Callable[[dict[str, Any]], Answer]


class People:
    """Bob, and two who write to him, with real keys."""

    def __init__(self) -> None:
        self.alice, self.bob, self.dave = (make_identity(make_key(f"<{who}>")) for who in (ALICE, BOB, DAVE))

    def seal(self, sender: Address, identity: UnlockedIdentity, post_id: bytes) -> bytes:
        tags = fill_up([tag(post_id, self.bob.fingerprint, BOB)], secrets.token_bytes)
        text = Envelope(sender, WHEN, tags).wrap(MESSAGE % str(sender).encode())
        return identity.seal(text, [self.bob.certificate])


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    found = People()
    yield found
    found.bob.close()


class LyingStore(ThreadingHTTPServer):
    """Opens sessions as it should; every other operation is answered by the test's script."""

    daemon_threads = True

    def __init__(self, bob: Certificate) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.bob = bob
        self.scripts: dict[str, Script] = {}
        self.asked: list[str] = []
        self.endless: type[bytes] | None = None

    def answer(self, request: dict[str, Any]) -> Answer:
        self.asked.append(request["op"])
        if request["op"] in self.scripts:
            return self.scripts[request["op"]](request)
        if request["op"] != "open":
            return 200, "application/json", json.dumps({"acknowledged": len(request["ids"])}).encode()
        session = {
            "version": 1,
            "host": request["host"],
            "nonce": request["nonce"],
            "session": secrets.token_hex(16),
            "secret": secrets.token_hex(32),
            "expires": int(time.time()) + 3600,
            "cookie": secrets.token_hex(16),
            "cookie_key": secrets.token_hex(32),
            "max_post": 0,
        }
        return 200, "application/octet-stream", encrypt(json.dumps(session).encode(), self.bob)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LyingStore

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = re.search(rb'name="request".*?\r\n\r\n(\{.*?\})\r\n--', body, re.DOTALL)
        assert found is not None
        status, media_type, content = self.server.answer(json.loads(found[1]))
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        if content.startswith(GZIP):
            self.send_header("Content-Encoding", "gzip")
        endless = self.server.endless and isinstance(content, self.server.endless)
        if endless:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content)))
        if status == 302:
            self.send_header("Location", f"http://{LOOPBACK}:{self.server.server_port}/elsewhere")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(content)
            while endless:
                self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(people: People) -> Iterator[LyingStore]:
    with LyingStore(people.bob.certificate) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Rig:
    """Bob's account, whose correspondents are alice at the lying store and dave at an honest one."""

    def __init__(self, directory: Path, people: People, store: LyingStore) -> None:
        keyring = FakeKeyring(people.alice.certificate, people.dave.certificate)
        self.account = Account(BOB, people.bob, keyring, Mbox(directory / "mbox", 5.0), directory)
        self.mbox = directory / "mbox"
        self.honest = FakeStore()
        post_id = secrets.token_bytes(16)
        content = people.seal(DAVE, people.dave, post_id)
        self.honest.put(post_id, content, sender=people.dave.fingerprint, address=DAVE)
        self.resolver = Resolver(("127.0.0.1", 9), allow_private=True)
        self.http = HttpClient(self.resolver, timeout=30.0)
        self.port = store.server_port

    def discover(self, domain: str) -> StubDomain:
        target = Target(LOOPBACK, self.port)
        return StubDomain(domain, (), (target,), (Store(LOOPBACK, self.port, domain),))

    def addresses(self, host: str) -> list[str]:
        return [host]

    def connect(self, account: Account, store: Store) -> Client:
        return self.honest if store.prefix == "gamma.example" else CookieKeeper(self.http, account, store)

    def round(self) -> Report:
        workers = Turns(4)

        async def run() -> Report:
            counters, limits, rng = Counters(), Limits(10**6), random.Random(1)
            visits = Visits(self, Checks(), self.connect, limits, counters, rng=rng)
            puller = Puller(visits, limits, workers, counters, rng=rng)
            puller.set_accounts([self.account])
            puller.start_round()
            await asyncio.wait_for(puller.finish(), 60)
            return puller.report

        try:
            return asyncio.run(run())
        finally:
            workers.shutdown()

    def delivered_from(self) -> list[str]:
        snapshot = Mbox(self.mbox).snapshot()
        return [snapshot.from_line(at).split(b" ")[1].decode() for at in range(len(snapshot))]


@pytest.fixture
def rig(tmp_path: Path, people: People, store: LyingStore) -> Iterator[Rig]:
    found = Rig(tmp_path, people, store)
    yield found
    found.account.state.close()


def page(people: People, *ids: bytes, more: bool = False, first: int = 1, size: int = SIZE) -> dict[str, Any]:
    posts = [
        {
            "id": post_id.hex(),
            "serial": first + at,
            "sender": people.alice.fingerprint,
            "address": str(ALICE),
            "size": size,
            "time": 0,
        }
        for at, post_id in enumerate(ids)
    ]
    return {"posts": posts, "more": more, "serial": first + len(ids), "others": []}


def as_json(data: object) -> Answer:
    return 200, "application/json", json.dumps(data).encode()


HTML = 200, "text/html", b"<html>Welcome to our hotel. Please log in.</html>"


@pytest.mark.parametrize("op", ["open", "list", "fetch"])
@pytest.mark.parametrize(
    "answer",
    [
        HTML,
        (302, "text/html", b"moved"),
        (500, "text/plain", b"oops"),
        (503, "application/json", b'{"error": "unavailable", "message": "later", "time": 0}'),
        (403, "application/json", b'{"error": "clock-skew", "message": "400 seconds", "time": 0}'),
        (200, "application/json", b"{"),
        (200, "application/json", b"[" * 100_000),
        (200, "application/octet-stream", b"\x00" * 5000),
        (200, MEDIA_TYPE, b"\x00" * 5000),
        (200, MEDIA_TYPE, b""),
        (200, "application/json", BOMB),
        (200, "application/octet-stream", BOMB),
        (200, MEDIA_TYPE, BOMB),
    ],
)
def test_what_is_not_the_protocol_is_no_mail(
    rig: Rig, store: LyingStore, people: People, op: str, answer: Answer
) -> None:
    store.scripts = {"list": lambda _: as_json(page(people, *IDS)), op: lambda _: answer}
    report = rig.round()
    assert report.failed == {"alpha.example"}
    assert rig.delivered_from() == [str(DAVE)]
    assert "ack" not in store.asked


def spoiled(**members: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: data | members


def spoiled_post(**members: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: data | {"posts": [post | members for post in data["posts"]]}


@pytest.mark.parametrize(
    "spoil",
    [
        spoiled(posts=None),
        spoiled(others=None),
        spoiled(serial="many"),
        spoiled(others=[{"sender": "5E5E5E5E", "address": "eve@alpha.example", "count": 1}]),
        spoiled_post(sender="5E" * 20),
        spoiled_post(serial=1),
        spoiled_post(serial=-1),
        spoiled_post(serial=10**30),
        spoiled_post(id="00"),
        spoiled_post(id="00" * 16),
        spoiled_post(address="alice"),
        spoiled_post(size=-1),
        spoiled_post(size=None),
        lambda data: data | {"posts": [], "more": True},
    ],
)
def test_a_listing_that_cannot_be_is_refused(
    rig: Rig, store: LyingStore, people: People, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    store.scripts["list"] = lambda _: as_json(spoil(page(people, *IDS)))
    report = rig.round()
    assert report.failed == {"alpha.example"}
    assert rig.delivered_from() == [str(DAVE)]
    assert "fetch" not in store.asked


def test_a_listing_that_begins_again_and_again_is_refused(rig: Rig, store: LyingStore, people: People) -> None:
    store.scripts["list"] = lambda _: as_json(page(people, *IDS, more=True))
    store.scripts["fetch"] = lambda _: (200, MEDIA_TYPE, b"".join(f.to_wire() for f in absent(IDS)))
    assert rig.round().failed == {"alpha.example"}
    assert store.asked.count("list") == 2


def absent(ids: list[bytes]) -> list[Frame]:
    return [*(Frame(post_id, ABSENT) for post_id in ids), END]


CONTENT_OF = b"".join(Frame(post_id, CONTENT, 0, SIZE).to_wire() + b"x" * SIZE for post_id in IDS)


@pytest.mark.parametrize(
    "body",
    [
        END.to_wire(),
        CONTENT_OF,  # without its end
        CONTENT_OF + b"trailing" * 100,
        b"".join(f.to_wire() for f in absent([*IDS, bytes(16)])),  # more than asked for
        b"".join(f.to_wire() for f in absent(IDS[::-1])),  # in another order
        Frame(bytes([9] * 16), CONTENT, 0, SIZE).to_wire() + b"x" * SIZE + END.to_wire(),
        Frame(IDS[0], CONTENT, 0, 2**63).to_wire() + b"x" * 100_000,
        Frame(IDS[0], CONTENT, 7, SIZE - 7).to_wire() + b"x" * (SIZE - 7),
    ],
)
def test_a_fetch_answer_about_something_else_delivers_nothing(
    rig: Rig, store: LyingStore, people: People, body: bytes
) -> None:
    store.scripts["list"] = lambda _: as_json(page(people, *IDS))
    store.scripts["fetch"] = lambda _: (200, MEDIA_TYPE, body)
    assert rig.round().failed == {"alpha.example"}
    assert rig.delivered_from() == [str(DAVE)]
    assert "ack" not in store.asked


def test_answers_that_break_off_are_resumed_and_the_mail_is_delivered_once(
    rig: Rig, store: LyingStore, people: People
) -> None:
    contents = {post_id: people.seal(ALICE, people.alice, post_id) for post_id in IDS}
    sizes = {post_id: len(content) for post_id, content in contents.items()}
    listing = page(people, *IDS)
    listing["posts"] = [post | {"size": sizes[bytes.fromhex(post["id"])]} for post in listing["posts"]]
    store.scripts["list"] = lambda _: as_json(listing)

    def fetch(request: dict[str, Any]) -> Answer:
        body = b""
        for wanted in request["posts"]:
            post_id, offset = bytes.fromhex(wanted["id"]), wanted["offset"]
            rest = contents[post_id][offset:]
            body += Frame(post_id, CONTENT, offset, len(rest)).to_wire() + rest
        return 200, MEDIA_TYPE, (body + END.to_wire())[:600]  # never more than that

    store.scripts["fetch"] = fetch
    report = rig.round()
    assert (report.delivered, report.failed) == (4, set())
    assert sorted(rig.delivered_from()) == [str(ALICE)] * 3 + [str(DAVE)]
    assert store.asked.count("fetch") > 2 and store.asked.count("ack") == 1


def test_a_post_of_one_id_with_anothers_content_is_held(rig: Rig, store: LyingStore, people: People) -> None:
    content = people.seal(ALICE, people.alice, IDS[0])
    store.scripts["list"] = lambda _: as_json(page(people, IDS[1], size=len(content)))
    frame = Frame(IDS[1], CONTENT, 0, len(content))
    store.scripts["fetch"] = lambda _: (200, MEDIA_TYPE, frame.to_wire() + content + END.to_wire())
    report = rig.round()
    assert report.failed == set()
    held = rig.account.state.held("alpha.example")
    assert [post.reason for post in held.values()] == ["recipient"]
    assert sorted(rig.delivered_from()) == ["MAILER-DAEMON", str(DAVE)]


def serve(store: LyingStore, people: People, content: bytes, *, size: int | None = None) -> None:
    """Have one post listed, of this or another size, and its content fetched."""
    store.scripts["list"] = lambda _: as_json(page(people, IDS[0], size=len(content) if size is None else size))
    frame = Frame(IDS[0], CONTENT, 0, len(content))
    store.scripts["fetch"] = lambda _: (200, MEDIA_TYPE, frame.to_wire() + content + END.to_wire())


def held_reasons(rig: Rig) -> list[str]:
    return [post.reason for post in rig.account.state.held("alpha.example").values()]


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.99])
def test_content_that_was_altered_on_its_way_is_held(rig: Rig, store: LyingStore, people: People, where: float) -> None:
    content = bytearray(people.seal(ALICE, people.alice, IDS[0]))
    content[int(where * len(content))] ^= 4
    serve(store, people, bytes(content))
    rig.round()
    assert len(held_reasons(rig)) == 1
    assert sorted(rig.delivered_from()) == ["MAILER-DAEMON", str(DAVE)]
    assert "ack" not in store.asked


def test_a_message_in_a_message_is_not_opened_twice(rig: Rig, store: LyingStore, people: People) -> None:
    inner = people.seal(ALICE, people.alice, IDS[0])
    serve(store, people, people.alice.seal(inner, [people.bob.certificate]))
    rig.round()
    assert held_reasons(rig) == ["envelope"]
    assert "ack" not in store.asked


def test_two_hundred_megabytes_are_not_even_asked_for(rig: Rig, store: LyingStore, people: People) -> None:
    serve(store, people, b"", size=200 * 2**20)
    rig.round()
    assert held_reasons(rig) == ["too-large"]
    assert "fetch" not in store.asked


def test_a_store_that_lists_less_than_it_sends_gets_no_further(rig: Rig, store: LyingStore, people: People) -> None:
    serve(store, people, b"x" * 5_000_000, size=100)
    assert rig.round().failed == {"alpha.example"}
    assert "ack" not in store.asked


def test_a_post_that_comes_again_under_its_id_is_acknowledged_and_not_delivered_again(
    rig: Rig, store: LyingStore, people: People
) -> None:
    serve(store, people, people.seal(ALICE, people.alice, IDS[0]))
    assert rig.round().delivered == 2
    assert rig.round().delivered == 0
    assert store.asked.count("fetch") == 1 and store.asked.count("ack") == 2


def test_an_answer_without_an_end_is_cut_off(rig: Rig, store: LyingStore, people: People) -> None:
    """The store's other threads go on, and so does the honest domain."""

    class Endless(bytes):
        """What the handler writes piece by piece, for as long as anybody reads."""

    def endless(_: dict[str, Any]) -> Answer:
        return 200, "application/json", Endless(b'{"posts": [' + b" " * 60_000)

    store.scripts["list"] = endless
    store.endless = Endless
    assert rig.round().failed == {"alpha.example"}
    assert rig.delivered_from() == [str(DAVE)]
