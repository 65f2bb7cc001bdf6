"""StoreClient against a store in memory: sessions, operations, second tries, and stores that break the rules."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stubmail.address import Address
from stubmail.datagram import Token, token_request_from_wire, token_to_wire
from stubmail.discovery import Store, StubDomain, Target
from stubmail.errors import TemporaryError
from stubmail.frames import ABSENT, CONTENT, END, Frame
from stubmail.http_client import ConnectionLost, HttpClient
from stubmail.openpgp import Certificate
from stubmail.request import MAX_REQUEST
from stubmail.store_answers import Listed, Other, Result, StoreRefused
from stubmail.store_client import MAX_BATCH, RENEW_SECONDS, NewPost, StoreClient
from tests.support.fakes import FakeResolver
from tests.support.http_server import Connection, Script, ScriptedServer, scripted
from tests.support.scripted_store import (
    HOST,
    JSON,
    NOW,
    OCTETS,
    PORT,
    POSTS,
    PREFIX,
    CannedAnswer,
    FakeIdentity,
    LostAfter,
    ScriptedStore,
    answer,
    refusal,
)
from tests.support.udp_server import udp_server

ALICE = Address.parse("alice@alpha.example")
BOB = Address.parse("bob@beta.example")
ALICE_KEY, BOB_KEY = "A1" * 20, "B0" * 20
FIRST, SECOND, THIRD = (bytes([number]) * 16 for number in (1, 2, 3))


def post(post_id: bytes, head: bytes = b"head", body: bytes = b"body") -> NewPost:
    return NewPost(post_id, BOB_KEY, BOB, head, body)


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore(FakeIdentity(Certificate(b"a certificate", ALICE_KEY, (), frozenset())))


@pytest.fixture
def client(store: ScriptedStore) -> StoreClient:
    return StoreClient(store, Store(HOST, PORT, PREFIX), store.identity, ALICE, clock=lambda: store.now)  # type: ignore[arg-type]


# Sessions


def test_open(client: StoreClient, store: ScriptedStore) -> None:
    session = client.open()
    assert session.id == f"{1:032x}"
    assert (session.secret, session.cookie, session.cookie_key) == (b"\1" * 32, b"\xcc" * 16, b"\xdd" * 32)
    assert (session.expires, session.max_post) == (NOW + 3600, 1000)
    (asked,) = store.asked
    assert [name for name, _ in asked.parts] == ["request", "signature", "certificate"]
    assert {name: asked.json[name] for name in ("version", "op", "host", "time", "address")} == {
        "version": 1,
        "op": "open",
        "host": HOST,
        "time": NOW,
        "address": "alice@alpha.example",
    }


def test_secrets_are_in_no_representation(client: StoreClient) -> None:
    text = repr(client.session)
    assert "x01" not in text
    assert "xdd" not in text


def test_one_session_serves_many_requests(client: StoreClient, store: ScriptedStore) -> None:
    client.ack([FIRST])
    client.list([ALICE_KEY])
    assert client.session is client.session
    assert store.ops() == ["open", "ack", "list"]
    assert len({asked.json["nonce"] for asked in store.asked}) == 3


def test_a_session_is_renewed_before_it_ends(client: StoreClient, store: ScriptedStore) -> None:
    client.ack([])
    store.now += store.lifetime - RENEW_SECONDS
    client.ack([])
    store.now += 1
    client.ack([])
    assert store.ops() == ["open", "ack", "ack", "open", "ack"]


def test_a_session_that_the_store_forgot_is_replaced(client: StoreClient, store: ScriptedStore) -> None:
    client.ack([])
    store.sessions.clear()
    client.ack([FIRST])
    assert store.ops() == ["open", "ack", "ack", "open", "ack"]
    assert all(given.closed for given in store.answers)


def test_a_store_that_forgets_every_session_is_not_asked_for_ever(client: StoreClient, store: ScriptedStore) -> None:
    store.forgetful = True
    with pytest.raises(StoreRefused) as caught:
        client.ack([])
    assert caught.value.reason == "session"
    assert store.ops() == ["open", "ack", "open", "ack"]


def opening(store: ScriptedStore, **changes: Any) -> Callable[[dict[str, Any], list[bytes]], CannedAnswer]:
    def answer_open(said: dict[str, Any], _: list[bytes]) -> CannedAnswer:
        return CannedAnswer(200, OCTETS, store.sealed(store.opened(said["nonce"]) | changes))

    return answer_open


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "post.beta.example"},
        {"nonce": "00" * 16},
        {"version": 2},
        {"session": "../../etc"},
        {"secret": "00" * 31},
        {"secret": None},
        {"cookie": "zz" * 16},
        {"cookie_key": ["00" * 32]},
        {"expires": "soon"},
        {"expires": 1e400},
        {"expires": 2**63},
        {"expires": -1},
        {"max_post": True},
    ],
)
def test_a_session_that_cannot_be(client: StoreClient, store: ScriptedStore, changes: dict[str, Any]) -> None:
    store._open = opening(store, **changes)  # type: ignore[method-assign]
    with pytest.raises(TemporaryError) as caught:
        client.open()
    assert not isinstance(caught.value, ConnectionLost)


def test_an_answer_for_somebody_else(client: StoreClient, store: ScriptedStore) -> None:
    store.script = [CannedAnswer(200, OCTETS, b"sealed for nobody")]
    with pytest.raises(TemporaryError, match="encrypted to somebody else"):
        client.open()


# Operations


def test_store_and_what_becomes_of_it(client: StoreClient, store: ScriptedStore) -> None:
    assert client.store([post(FIRST), post(SECOND, b"x" * 1000)]) == [
        Result(FIRST, "stored"),
        Result(SECOND, "refused", "too-large", "too large"),
    ]
    (sent,) = client.outbox().posts
    assert (sent.id, sent.to, sent.address, sent.state, sent.stored) == (FIRST, BOB_KEY, BOB, "waiting", NOW)
    assert client.withdraw([FIRST, THIRD]) == [Result(FIRST, "withdrawn"), Result(THIRD, "absent")]
    assert not client.outbox(states=["waiting"]).posts
    assert client.outbox(after=0, limit=1, states=["withdrawn"]).posts[0].id == FIRST


def test_posts_share_a_body(client: StoreClient, store: ScriptedStore) -> None:
    body, other = b"one body", b"another"
    client.store([post(FIRST, b"1", body), post(SECOND, b"2", body), post(THIRD, b"3", other)])
    (asked,) = [asked for asked in store.asked if asked.json["op"] == "store"]
    assert [content for _, content in asked.parts[2:]] == [b"1", body, b"2", b"3", other]
    assert store.contents == {FIRST.hex(): b"1one body", SECOND.hex(): b"2one body", THIRD.hex(): b"3another"}


def test_contents_may_look_like_anything(client: StoreClient, store: ScriptedStore) -> None:
    body = b'\r\n--\r\n--boundary--\r\nContent-Disposition: form-data; name="mac"\r\n\r\n\0\xff'
    client.store([post(FIRST, b"", body)])
    assert store.contents[FIRST.hex()] == body


def test_many_posts_go_in_requests_that_are_small_enough(client: StoreClient, store: ScriptedStore) -> None:
    longest = Address.parse("a" * 64 + "@" + ".".join(["b" * 61] * 3 + ["c" * 3]))
    body = b"body"
    posts = [
        NewPost(number.to_bytes(16, "big"), "F" * 64, longest, b"%d" % number, body)
        for number in range(2 * MAX_BATCH + 1)
    ]
    results = client.store(posts)
    assert [result.id for result in results] == [one.id for one in posts]
    sizes = [len(asked.parts[0][1]) for asked in store.asked]
    assert len(sizes) == 4
    assert max(sizes) <= MAX_REQUEST
    assert client.store([]) == []


def test_list(client: StoreClient) -> None:
    client.store([post(FIRST), post(SECOND), post(THIRD)])
    page = client.list([ALICE_KEY, BOB_KEY], limit=2)
    assert page.posts[0] == Listed(FIRST, 1, ALICE_KEY, ALICE, 8, NOW)
    assert ([one.id for one in page.posts], page.more, page.serial, page.others) == ([FIRST, SECOND], True, 3, ())
    page = client.list({ALICE_KEY}, after=2)
    assert ([one.id for one in page.posts], page.more) == ([THIRD], False)
    assert client.list([]).others == (Other(ALICE_KEY, ALICE, 3),)


def test_fetch_and_acknowledge(client: StoreClient, store: ScriptedStore) -> None:
    client.store([post(FIRST, b"head", b"body" * 10), post(SECOND)])
    events = list(client.fetch([(FIRST, 0), (THIRD, 0), (SECOND, 6)]))
    frames = [event for event in events if isinstance(event, Frame)]
    assert frames == [Frame(FIRST, CONTENT, 0, 44), Frame(THIRD, ABSENT), Frame(SECOND, CONTENT, 6, 2), END]
    assert b"".join(event for event in events if isinstance(event, bytes)) == b"head" + b"body" * 10 + b"dy"
    client.ack([FIRST, SECOND])
    assert not store.contents
    assert all(given.closed for given in store.answers)


@pytest.mark.parametrize(
    ("rest", "broken"),
    [(b"head", False), (b"head", True), (b"headbody" + b"\xee" * 50, False)],
    ids=["ended", "broken off", "malformed"],
)
def test_a_truncated_fetch_keeps_what_came(
    client: StoreClient, store: ScriptedStore, rest: bytes, broken: bool
) -> None:
    frame = Frame(FIRST, CONTENT, 0, 8)
    assert client.session
    store.script = [CannedAnswer(200, POSTS, frame.to_wire() + rest, broken=broken)]
    seen: list[Frame | bytes] = []
    with pytest.raises(TemporaryError):
        for event in client.fetch([(FIRST, 0)]):
            seen += [event]
    assert seen[0] == frame
    assert b"".join(event for event in seen[1:] if isinstance(event, bytes)) == rest[:8]
    assert store.answers[-1].closed


def test_an_abandoned_fetch_gives_its_connection_back(client: StoreClient, store: ScriptedStore) -> None:
    client.store([post(FIRST)])
    events = client.fetch([(FIRST, 0)])
    next(iter(events))
    events.close()  # type: ignore[attr-defined]
    assert store.answers[-1].closed


# Second tries


@pytest.mark.parametrize("lost", [ConnectionLost("4.4.2", "gone"), LostAfter()], ids=["before", "after"])
def test_a_lost_connection_is_tried_again_once_with_another_nonce(
    client: StoreClient, store: ScriptedStore, lost: Exception | LostAfter
) -> None:
    """The store may have done what was asked, so that the same nonce would be refused as replayed, for good."""
    client.open()
    assert client.session
    store.script = [lost]
    assert client.store([post(FIRST)]) == [Result(FIRST, "stored")]
    first, second = store.asked[-2:]
    assert first.json["nonce"] != second.json["nonce"]
    assert first.parts[2:] == second.parts[2:]
    assert store.contents == {FIRST.hex(): b"headbody"}


@pytest.mark.parametrize("lost", [ConnectionLost("4.4.2", "gone"), LostAfter()], ids=["before", "after"])
def test_opening_is_tried_again_too(client: StoreClient, store: ScriptedStore, lost: Exception | LostAfter) -> None:
    store.script = [lost]
    client.ack([FIRST])
    assert store.ops() == ["open", "open", "ack"]


def test_a_connection_lost_again_is_an_error(client: StoreClient, store: ScriptedStore) -> None:
    assert client.session
    store.script = [ConnectionLost("4.4.2", "gone"), ConnectionLost("4.4.2", "gone again")]
    with pytest.raises(TemporaryError, match="gone again"):
        client.ack([])
    assert store.ops() == ["open", "ack", "ack"]


def test_other_errors_are_not_tried_again(client: StoreClient, store: ScriptedStore) -> None:
    assert client.session
    store.script = [TemporaryError("4.4.1", "nobody there")]
    with pytest.raises(TemporaryError, match="nobody there"):
        client.ack([])
    assert store.ops() == ["open", "ack"]


@contextlib.contextmanager
def real(store: ScriptedStore, *scripts: Script) -> Iterator[tuple[StoreClient, ScriptedServer]]:
    """A client over a real HttpClient, and the server it talks to."""
    with scripted(*scripts) as server:
        http = HttpClient(FakeResolver({HOST: ["127.0.0.1"]}), timeout=10)  # type: ignore[arg-type]
        record = Store(HOST, server.port, PREFIX)
        yield StoreClient(http, record, store.identity, ALICE, clock=lambda: store.now), server


def honest(store: ScriptedStore, times: int = 1) -> Script:
    """Answer requests as the store in memory does."""

    def script(connection: Connection) -> None:
        for _ in range(times):
            seen = connection.read_request()
            reply = store.post(HOST, PORT, seen.target, _Sent(seen.body), seen.all("content-type")[0])  # type: ignore[arg-type]
            connection.answer(reply.body, "200 OK", reply.media_type)

    return script


def test_a_kept_connection_that_breaks_is_replaced_for_real(store: ScriptedStore) -> None:
    """The store reads the second request and hangs up, as one does that ends just then."""

    def first(connection: Connection) -> None:
        honest(store)(connection)
        connection.read_request()

    with real(store, first, honest(store)) as (client, server):
        client.ack([FIRST])
    assert store.ops() == ["open", "ack"]
    assert [seen.target for seen in server.seen] == ["/" + PREFIX] * 3
    assert server.connections == 2


def test_a_connection_lost_in_the_middle_of_an_upload_is_replaced_for_real(store: ScriptedStore) -> None:
    body = b"x" * 10_000_000
    store.max_post = 2 * len(body)

    def first(connection: Connection) -> None:
        honest(store)(connection)
        connection.read_some(300_000)

    with real(store, first, honest(store, 2)) as (client, server):
        assert client.store([post(FIRST, body=body)]) == [Result(FIRST, "stored")]
        client.ack([SECOND])
    assert store.contents[FIRST.hex()] == b"head" + body
    assert store.ops() == ["open", "store", "ack"]
    assert server.connections == 2


def test_an_upload_that_is_too_large_is_refused_and_not_sent_again(store: ScriptedStore) -> None:
    """The store refuses at the header, or half-way through, and hangs up: that is an answer, not a lost connection."""
    refused = json.dumps({"error": "too-large", "message": "no", "time": NOW}).encode()
    for read in (0, 300_000):

        def first(connection: Connection, read: int = read) -> None:
            honest(store)(connection)
            connection.read_some(read)
            connection.answer(refused, "413 Content Too Large", JSON)

        with real(store, first) as (client, server), pytest.raises(StoreRefused) as caught:
            client.store([post(FIRST, body=b"x" * 10_000_000)])
        assert caught.value.reason == "too-large"
        assert server.connections == 1


class _Sent:
    """A body as a server has received it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Any:
        return iter([self._data])


# Refusals


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "malformed"), (401, "mac"), (403, "clock-skew"), (403, "account"), (409, "replayed"), (413, "too-large")],
)
def test_permanent_refusals(client: StoreClient, store: ScriptedStore, status: int, code: str) -> None:
    assert client.session
    store.script = [refusal(status, code, "no\r\n\x1b[31mway")]
    with pytest.raises(StoreRefused) as caught:
        client.ack([])
    assert (caught.value.reason, caught.value.code) == (code, "5.7.1")
    assert caught.value.text == f"the store refused ({code}): no  ?[31mway"
    assert store.answers[-1].closed


@pytest.mark.parametrize(
    "given",
    [
        refusal(429, "rate"),
        refusal(503, "unavailable"),
        refusal(507, "no-space"),
        refusal(500, "malformed"),
        refusal(404, "not-found"),
        refusal(400, "a-code-of-the-future"),
        CannedAnswer(502, "text/html", b"<h1>Bad Gateway"),
        CannedAnswer(401, "text/html", b"<h1>Login"),
        CannedAnswer(302, "text/html", b""),
        CannedAnswer(204, "", b""),
        CannedAnswer(400, JSON, b"[]"),
        CannedAnswer(400, JSON, b"{"),
        CannedAnswer(400, JSON, b'{"error": ["malformed"]}'),
        CannedAnswer(200, "text/html", b"{}"),
        CannedAnswer(200, JSON, b"[]"),
        CannedAnswer(200, JSON, b""),
        CannedAnswer(200, JSON, b'{"results": [], "results": []}'),
        CannedAnswer(200, JSON, b'{"results": []}', broken=True),
        CannedAnswer(200, JSON, b" " * (4 * 2**20 + 1), cuts=2**20),
        answer({}),
        answer({"results": {}}),
        answer({"results": []}),
        answer({"results": [{"id": SECOND.hex(), "state": "withdrawn"}]}),
        answer({"results": [{"id": FIRST.hex(), "state": "withdrawn"}] * 2}),
        answer({"results": [{"id": FIRST.hex()}]}),
        answer({"results": [{"id": FIRST.hex(), "state": "Withdrawn!"}]}),
    ],
    ids=lambda given: f"{given.status}-{given.body[:30]!r}",
)
def test_everything_else_may_pass_with_time(client: StoreClient, store: ScriptedStore, given: CannedAnswer) -> None:
    assert client.session
    store.script = [given]
    with pytest.raises(TemporaryError):
        client.withdraw([FIRST])
    assert given.closed


@pytest.mark.parametrize(
    ("ask", "media_type"),
    [
        (lambda client: client.open(), JSON),
        (lambda client: list(client.fetch([(FIRST, 0)])), JSON),
        (lambda client: client.list([]), OCTETS),
    ],
    ids=["open", "fetch", "list"],
)
def test_an_answer_of_another_type(
    client: StoreClient, store: ScriptedStore, ask: Callable[[StoreClient], object], media_type: str
) -> None:
    assert client.session
    store.script = [CannedAnswer(200, media_type, json.dumps({}).encode())]
    with pytest.raises(TemporaryError, match=f"the answer is {media_type}, not "):
        ask(client)
    assert store.answers[-1].closed


def test_https_on_port_443(store: ScriptedStore) -> None:
    seen: list[bool] = []

    class Http:
        resolver = FakeResolver()

        def post(self, *_: object, tls: bool, fields: object) -> None:
            seen.append(tls)
            raise TemporaryError("4.4.1", "no")

    for port in (443, 8443):
        with pytest.raises(TemporaryError):
            StoreClient(Http(), Store(HOST, port, PREFIX), store.identity, ALICE).open()  # type: ignore[arg-type]
    assert seen == [True, False]


# A store that wants tokens


class Offering(FakeResolver):
    """A resolver that knows where alpha.example gives tokens."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def discover(self, domain: str) -> StubDomain | None:
        """As stubmail.discovery.Resolver.discover."""
        assert domain == "alpha.example"
        return StubDomain(domain, (Target("udp.example", self._port),), (), ())


def give(data: bytes) -> list[bytes]:
    return [token_to_wire(token_request_from_wire(data), Token(bytes(range(20)), 400))]


def test_a_token_is_got_when_the_store_wants_one(store: ScriptedStore) -> None:
    with udp_server(give) as server:
        store.resolver = Offering(server.port)
        client = StoreClient(store, Store(HOST, PORT, PREFIX), store.identity, ALICE, clock=lambda: store.now)  # type: ignore[arg-type]
        client.ack([])
        assert store.fields == [{}, {}]
        store.script = [refusal(403, "token")]
        client.ack([])
        client.ack([])
    token = {"Stub-Token": bytes(range(20)).hex()}
    assert store.fields == [{}, {}, {}, token, token]
    assert store.ops() == ["open", "ack", "ack", "ack", "ack"]
    assert len(server.asked) == 1
    assert all(given.closed for given in store.answers)


def test_a_store_that_is_never_content_is_asked_twice(store: ScriptedStore) -> None:
    with udp_server(give) as server:
        store.resolver = Offering(server.port)
        client = StoreClient(store, Store(HOST, PORT, PREFIX), store.identity, ALICE, clock=lambda: store.now)  # type: ignore[arg-type]
        store.script = [refusal(403, "token"), refusal(403, "token")]
        with pytest.raises(TemporaryError, match="wants a token"):
            client.open()
    assert store.ops() == ["open", "open"]
    assert len(server.asked) == 1
