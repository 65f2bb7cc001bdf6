"""What stores answer: any JSON is understood or a TemporaryError, and numbers, texts and counts have their bounds."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.store_answers import (
    Listed,
    Listing,
    Other,
    Outbox,
    Result,
    Sent,
    StoreRefused,
    json_object,
    parse_listing,
    parse_outbox,
    parse_results,
    parse_session,
    refusal,
)

ID = "00112233445566778899aabbccddeeff"
POST_ID = bytes.fromhex(ID)
KEY = "A1" * 20
ALICE = Address.parse("alice@alpha.example")

LISTED = {"id": ID, "serial": 1, "sender": KEY, "address": "alice@alpha.example", "size": 9, "time": 7}
OTHER = {"sender": KEY, "address": "alice@alpha.example", "count": 3}
LISTING = {"posts": [LISTED], "more": False, "serial": 1, "others": [OTHER]}
SENT = {
    "id": ID,
    "serial": 1,
    "to": KEY,
    "address": "alice@alpha.example",
    "size": 9,
    "state": "waiting",
    "stored": 1,
    "changed": 2,
    "expires": 3,
}
OUTBOX = {"posts": [SENT], "more": True}
SESSION = {
    "version": 1,
    "host": "post.alpha.example",
    "nonce": ID,
    "session": ID,
    "secret": "00" * 32,
    "expires": 1,
    "cookie": ID,
    "cookie_key": "11" * 32,
    "max_post": 0,
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def session(data: dict[str, Any]) -> Any:
    return parse_session(json.dumps(data).encode(), "post.alpha.example", ID)


PARSERS = {
    "session": (session, SESSION),
    "listing": (parse_listing, LISTING),
    "outbox": (parse_outbox, OUTBOX),
    "results": (lambda data: parse_results(data, [POST_ID]), {"results": [{"id": ID, "state": "stored"}]}),
}


def test_a_listing() -> None:
    assert parse_listing(LISTING) == Listing(
        posts=(Listed(POST_ID, 1, KEY, ALICE, 9, 7),), more=False, serial=1, others=(Other(KEY, ALICE, 3),)
    )


def test_an_outbox() -> None:
    assert parse_outbox(OUTBOX) == Outbox((Sent(POST_ID, 1, KEY, ALICE, 9, "waiting", 1, 2, 3),), True)


def test_results_are_about_what_was_asked_in_that_order() -> None:
    data = {"results": [{"id": ID, "state": "refused", "error": "quota", "message": "full\nstop"}]}
    assert parse_results(data, [POST_ID]) == [Result(POST_ID, "refused", "quota", "full stop")]
    for ids in ([], [bytes(16)], [POST_ID, POST_ID], [bytes(16), POST_ID]):
        with pytest.raises(TemporaryError, match="about other posts"):
            parse_results(data, ids)


@pytest.mark.parametrize("parser", PARSERS)
@given(data=st.data())
def test_any_answer_is_understood_or_a_temporary_error(parser: str, data: st.DataObject) -> None:
    parse, good = PARSERS[parser]
    assert parse(good)
    name = data.draw(st.sampled_from(sorted(good)))
    changed = dict(good)
    if data.draw(st.booleans()):
        del changed[name]
    elif isinstance(good[name], list) and data.draw(st.booleans()):
        inner = dict(good[name][0])
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(JSON)
        changed[name] = [inner]
    else:
        changed[name] = data.draw(JSON)
    try:
        parse(changed)
    except TemporaryError as error:
        assert error.text.isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 2**63},
        {"serial": -1},
        {"serial": 1.0},
        {"serial": float("inf")},
        {"size": "9"},
        {"time": None},
        {"sender": KEY[-8:]},
        {"sender": KEY.lower()},
        {"id": ID.upper()},
        {"id": ID[:-2]},
        {"address": "nobody"},
        {"address": "\ud800@a.example"},
    ],
)
def test_a_listed_post_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(TemporaryError):
        parse_listing(LISTING | {"posts": [LISTED | changes]})


def test_a_page_has_its_limits() -> None:
    assert len(parse_listing(LISTING | {"posts": [LISTED] * 1000, "others": [OTHER] * 100}).posts) == 1000
    for changes in ({"posts": [LISTED] * 1001}, {"others": [OTHER] * 101}):
        with pytest.raises(TemporaryError, match="an array of at most"):
            parse_listing(LISTING | changes)
    with pytest.raises(TemporaryError):
        parse_outbox(OUTBOX | {"posts": [SENT] * 1001})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"3",
        b"[]",
        b'"x"',
        b"{}{}",
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b"\xff",
        "{}".encode("utf-16"),
        b"[" * 10**5,
    ],
)
def test_no_json_object(data: bytes) -> None:
    with pytest.raises(TemporaryError, match="the store's answer is malformed"):
        json_object(data)


@given(
    st.integers(100, 599), st.binary() | JSON.map(lambda data: json.dumps({"error": data, "message": data}).encode())
)
def test_any_refusal_is_one_of_the_two_errors(status: int, data: bytes) -> None:
    try:
        error = refusal(status, data)
    except TemporaryError as caught:
        error = caught
    assert isinstance(error, TemporaryError | StoreRefused)
    assert error.text.isprintable()
    assert len(error.text) < 400


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "malformed", StoreRefused),
        (401, "session", StoreRefused),
        (413, "too-large", StoreRefused),
        (429, "rate", TemporaryError),
        (507, "no-space", TemporaryError),
        (503, "unavailable", TemporaryError),
        (500, "malformed", TemporaryError),
        (404, "not-found", TemporaryError),
    ],
)
def test_what_a_refusal_means(status: int, code: str, kind: type[Exception]) -> None:
    assert type(refusal(status, json.dumps({"error": code, "message": "no"}).encode())) is kind
