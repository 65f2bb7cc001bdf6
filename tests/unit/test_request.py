"""Requests (protocol.md §4): what an operation may say, and the code of every refusal."""

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stubmail import request
from stubmail.address import Address
from stubmail.request import (
    MAX_HEAD,
    MAX_REQUEST,
    ListQuery,
    OutboxQuery,
    Part,
    Refusal,
    Request,
    StorePost,
    fetch_posts,
    list_query,
    mac,
    outbox_query,
    post_ids,
    store_posts,
)

PROTOCOL = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
ID, OTHER = "00112233445566778899aabbccddeeff", "ff" * 16
ALICE, BOB = "A1" * 20, "B0" * 32
PART = {"sha256": "00" * 32, "size": 10}

OPENING: dict[str, Any] = {
    "version": 1,
    "op": "open",
    "host": "post.alpha.example",
    "time": 1795251600,
    "nonce": ID,
    "parts": [PART],
    "fingerprint": ALICE,
    "address": "alice@alpha.example",
}
ACK = {name: OPENING[name] for name in ("version", "host", "time", "nonce")} | {
    "op": "ack",
    "parts": [],
    "session": OTHER,
    "ids": [ID],
}
POST = {"id": ID, "to": BOB, "address": "bob@beta.example", "head": 0, "body": 1}

IDS = st.binary(min_size=16, max_size=16)
PARTS = st.lists(st.builds(Part, st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1)), max_size=3)


def parse(data: dict[str, Any], **changes: Any) -> Request:
    return Request.from_wire(json.dumps(data | changes).encode())


def asked(parts: int = 2, **members: Any) -> Request:
    """A request that asks for something of its own."""
    return parse(ACK | {"parts": [PART] * parts}, **members)


def code_of(refused: Any) -> str:
    return str(refused.value.code)


# The part that all have


def test_an_open_request() -> None:
    parsed = parse(OPENING)
    assert parsed == Request(
        op="open",
        host="post.alpha.example",
        time=1795251600,
        nonce=ID,
        parts=(Part(bytes(32), 10),),
        fingerprint=ALICE,
        address=Address("alice", "alpha.example"),
        members=OPENING,
    )


def test_another_request() -> None:
    parsed = parse(ACK, fingerprint="ignored", address=3)
    assert (parsed.session, parsed.fingerprint, parsed.address) == (OTHER, "", None)


@given(st.sampled_from(sorted(request.OPERATIONS)), st.integers(0, 2**63 - 1), IDS, PARTS)
def test_what_is_written_is_read(op: str, time: int, nonce: bytes, parts: list[Part]) -> None:
    opening = op == "open"
    written = Request(
        op=op,
        host="post.alpha.example",
        time=time,
        nonce=nonce.hex(),
        parts=tuple(parts),
        fingerprint=ALICE if opening else "",
        address=Address("jürgen", "alpha.example") if opening else None,
        session="" if opening else OTHER,
        members={"ids": [ID]},
    )
    data = written.to_wire()
    read = Request.from_wire(data)
    assert read.members["ids"] == [ID]
    assert (read.op, read.time, read.nonce, read.parts) == (op, time, nonce.hex(), tuple(parts))
    assert (read.fingerprint, read.address, read.session) == (written.fingerprint, written.address, written.session)
    assert read.to_wire() == data


def test_unknown_members_are_ignored() -> None:
    assert parse(ACK, colour="blue").session == OTHER


@given(st.binary())
@example(b'{"version":1,"op":"open","address":"\\ud800@a"}')
@example(b"[" * MAX_REQUEST)
def test_any_octets_are_a_request_or_a_refusal(data: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        Request.from_wire(data)
    assert code_of(refused) in ("malformed", "version", "operation", "too-large")


@given(
    st.sampled_from(sorted(OPENING.keys() | ACK.keys())),
    st.none() | st.booleans() | st.integers() | st.text(st.characters()) | st.lists(st.just({})),
)
def test_any_member_is_read_or_refused(name: str, value: Any) -> None:
    for data in (OPENING, ACK):
        try:
            Request.from_wire(json.dumps(data | {name: value}).encode())
        except Refusal as refusal:
            assert refusal.status == 400


@pytest.mark.parametrize("name", list(OPENING))
def test_no_member_of_an_open_may_be_missing(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        Request.from_wire(json.dumps({key: value for key, value in OPENING.items() if key != name}).encode())
    assert code_of(refused) == "malformed"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 2}, "version"),
        ({"version": 1.0}, "malformed"),
        ({"version": True}, "malformed"),
        ({"version": 2, "op": "other", "time": "x"}, "version"),
        ({"op": "steal"}, "operation"),
        ({"op": "OPEN"}, "operation"),
        ({"op": ["open"]}, "malformed"),
        ({"host": "POST.alpha.example"}, "malformed"),
        ({"host": "post.alpha.example."}, "malformed"),
        ({"host": "post.alpha.example:80"}, "malformed"),
        ({"host": "post.alpha.example\n"}, "malformed"),
        ({"host": ""}, "malformed"),
        ({"time": -1}, "malformed"),
        ({"time": 1.5}, "malformed"),
        ({"time": 2**63}, "malformed"),
        ({"nonce": ID.upper()}, "malformed"),
        ({"nonce": ID[:-1]}, "malformed"),
        ({"nonce": ID + "0"}, "malformed"),
        ({"parts": {}}, "malformed"),
        ({"parts": [PART] * 2001}, "malformed"),
        ({"parts": [{"sha256": "00" * 31, "size": 1}]}, "malformed"),
        ({"parts": [{"sha256": "00" * 32, "size": -1}]}, "malformed"),
        ({"parts": [{"sha256": "00" * 32}]}, "malformed"),
        ({"parts": [3]}, "malformed"),
        ({"fingerprint": ALICE[:-8]}, "malformed"),
        ({"fingerprint": ALICE[-8:]}, "malformed"),
        ({"fingerprint": ALICE.lower()}, "malformed"),
        ({"address": "alice"}, "malformed"),
        ({"address": "\ud800@alpha.example"}, "malformed"),
    ],
)
def test_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse(OPENING, **changes)
    assert code_of(refused) == code


def test_a_session_is_an_id() -> None:
    for session in ("", "x", OTHER + "0", None):
        with pytest.raises(Refusal, match="malformed"):
            parse(ACK, session=session)


def test_size_comes_before_everything() -> None:
    data = json.dumps(ACK).encode()
    assert Request.from_wire(data + b" " * (MAX_REQUEST - len(data)))
    with pytest.raises(Refusal) as refused:
        Request.from_wire(data + b" " * (MAX_REQUEST - len(data) + 1))
    assert code_of(refused) == "too-large"


def test_doubled_names_are_refused() -> None:
    with pytest.raises(Refusal, match="twice"):
        Request.from_wire(json.dumps(ACK).encode()[:-1] + b',"session":"%s"}' % (ID.encode()))


def test_the_mac() -> None:
    secret, data = bytes(range(32)), json.dumps(ACK).encode()
    assert mac(secret, data) == hmac.new(secret, data, hashlib.sha256).digest()


# The operations' own members


def test_posts_to_store() -> None:
    second = POST | {"id": OTHER, "head": 1}
    assert store_posts(asked(posts=[POST, second])) == [
        StorePost(bytes.fromhex(ID), BOB, Address("bob", "beta.example"), 0, 1),
        StorePost(bytes.fromhex(OTHER), BOB, Address("bob", "beta.example"), 1, 1),
    ]


@pytest.mark.parametrize(
    ("posts", "code"),
    [
        (None, "malformed"),
        ({}, "malformed"),
        ([3], "malformed"),
        ([POST, POST], "malformed"),
        ([POST | {"head": 2}], "malformed"),
        ([POST | {"body": 2}], "malformed"),
        ([POST | {"head": -1}], "malformed"),
        ([POST | {"to": "short"}], "malformed"),
        ([POST | {"address": "bob"}], "malformed"),
        ([{name: POST[name] for name in POST if name != "id"}], "malformed"),
        ([POST | {"id": f"{number:032x}"} for number in range(1001)], "malformed"),
    ],
)
def test_no_posts_to_store(posts: Any, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        store_posts(asked(posts=posts))
    assert code_of(refused) == code


def test_a_head_has_its_limit() -> None:
    for size, good in ((MAX_HEAD, True), (MAX_HEAD + 1, False)):
        large = parse(ACK, parts=[PART | {"size": size}, PART], posts=[POST])
        if good:
            assert store_posts(large)
        else:
            with pytest.raises(Refusal, match="too-large"):
                store_posts(large)


def test_a_list() -> None:
    assert list_query(asked(senders=[ALICE, BOB], after=5, limit=1000)) == ListQuery((ALICE, BOB), 5, 1000)
    assert list_query(asked(senders=[], after=0, limit=1)) == ListQuery((), 0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"senders": ALICE},
        {"senders": [ALICE.lower()]},
        {"senders": [None]},
        {"senders": [ALICE] * 4001},
        {"after": -1},
        {"after": None},
        {"limit": 0},
        {"limit": 1001},
        {"limit": True},
    ],
)
def test_no_list(changes: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="malformed"):
        list_query(asked(**({"senders": [], "after": 0, "limit": 1} | changes)))


def test_a_fetch() -> None:
    wanted = [{"id": ID, "offset": 0}, {"id": ID, "offset": 5}]
    assert fetch_posts(asked(posts=wanted)) == [(bytes.fromhex(ID), 0), (bytes.fromhex(ID), 5)]
    for posts in ([ID], [{"id": ID}], [{"id": ID, "offset": -1}], [{"id": "x", "offset": 0}], wanted * 501):
        with pytest.raises(Refusal, match="malformed"):
            fetch_posts(asked(posts=posts))


def test_ids() -> None:
    assert post_ids(asked(ids=[ID, OTHER])) == [bytes.fromhex(ID), bytes.fromhex(OTHER)]
    for ids in (None, ID, [ID.upper()], [3], [[]], [ID] * 1001):
        with pytest.raises(Refusal, match="malformed"):
            post_ids(asked(ids=ids))


def test_an_outbox() -> None:
    assert outbox_query(asked(after=1, limit=2)) == OutboxQuery(1, 2, ())
    assert outbox_query(asked(after=1, limit=2, states=["expired"])) == OutboxQuery(1, 2, ("expired",))
    for states in (["lost"], "expired", [["expired"]], ["expired\n"], ["waiting"] * 5):
        with pytest.raises(Refusal, match="malformed"):
            outbox_query(asked(after=1, limit=2, states=states))


@given(
    st.dictionaries(
        st.sampled_from(["posts", "ids", "senders", "after", "limit", "states"]),
        st.none()
        | st.integers()
        | st.text()
        | st.lists(st.text() | st.integers() | st.dictionaries(st.sampled_from([*POST, "offset"]), st.text())),
    )
)
def test_any_members_are_read_or_refused(members: dict[str, Any]) -> None:
    for read in (store_posts, list_query, fetch_posts, post_ids, outbox_query):
        try:
            read(asked(**members))
        except Refusal as refusal:
            assert refusal.code == "malformed"


# Refusals


def test_statuses_are_those_of_the_protocol() -> None:
    section = PROTOCOL.read_text().partition("### 4.4")[2].partition("## 5")[0]
    rows = re.findall(r"^\| (\d{3}) \| (.+) \|$", section, re.MULTILINE)
    written = {code: int(status) for status, text in rows for code in re.findall(r"`([a-z-]+)`", text)}
    assert {code: status for code, status in written.items() if code != "parts"} == request.STATUS
    assert request.STATUS.keys() >= request.RETRYABLE


def test_a_refusal_knows_its_status() -> None:
    refusal = Refusal("rate", "slower, please", retry_after=3)
    assert (refusal.status, refusal.retry_after, str(refusal)) == (429, 3, "rate: slower, please")


def test_limits_are_those_of_the_protocol() -> None:
    text = PROTOCOL.read_text()
    for limit in (MAX_REQUEST, request.MAX_SIGNATURE, request.MAX_CERTIFICATE, MAX_HEAD, request.MAX_PARTS + 2):
        assert f"{limit:,}" in text
    assert f"within {request.CLOCK_SKEW} seconds" in text
    assert f"the last {request.NONCE_LIFETIME} seconds" in text
