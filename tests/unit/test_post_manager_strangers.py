"""What a stranger learns of another's posts: nothing, neither from the answer nor from the work it takes."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.post_manager.storage import outbox
from tests.support.statements import watched_statements
from tests.support.store import Person, Store, Talker, running_store

ALICE, BOB, MALLORY = (Person(f"{name}@alpha.example") for name in ("alice", "bob", "mallory"))
POST = bytes(range(16))
LARGE = 700_000  # octets: several chunks

Trace = list[tuple[str, int]]  # statements, and how many rows each of them found


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Iterator[Store]:
    with running_store(tmp_path, [ALICE, MALLORY], database=database_url) as store:
        yield store


@contextlib.contextmanager
def traced(store: Store) -> Iterator[Trace]:
    """The statements that the store makes meanwhile."""
    trace: Trace = []

    def note(statement: str, changed: int) -> None:
        trace.append((re.sub(r"\s+", " ", statement), changed))

    with watched_statements(lambda *_: None, note):
        yield trace


def asks(op: str) -> dict[str, Any]:
    return {"posts": [{"id": POST.hex(), "offset": 0}]} if op == "fetch" else {"ids": [POST.hex()]}


def answer(talker: Talker, op: str) -> tuple[Trace, tuple[Any, ...]]:
    """What a request for the post is answered, in every octet but the date, and what it made the store do."""
    talker.send(op, asks(op))  # whatever is done once only: a connection may have to be made, or its mode changed
    with traced(talker.store) as trace:
        response = talker.send(op, asks(op))
        said = response.status, [each for each in response.headers if each[0] != "Date"], response.data
    return trace, said


@pytest.mark.parametrize("op", ["ack", "withdraw", "fetch"])
@pytest.mark.parametrize("state", ["waiting", "fetched", "withdrawn"])
def test_anothers_post_is_like_one_that_is_not_there(store: Store, op: str, state: str) -> None:
    mallory, alice, bob = (store.talker(person) for person in (MALLORY, ALICE, BOB))
    work, absent = answer(mallory, op)
    alice.keep(BOB, bytes(LARGE), post_id=POST)
    if state != "waiting":
        bob.ack(POST) if state == "fetched" else alice.withdraw(POST)
    assert answer(mallory, op) == (work, absent)
    assert work
    assert [sent["state"] for sent in alice.outbox()] == [state]


@pytest.mark.parametrize("op", ["ack", "fetch"])
@pytest.mark.parametrize("end", ["ack", "expire"])
def test_ones_own_post_that_is_gone_is_answered_like_one_that_never_was(store: Store, op: str, end: str) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    absent = answer(bob, op)[1]
    alice.keep(BOB, b"body", post_id=POST)
    if end == "ack":
        bob.ack(POST)
    else:
        expire(store)
        bob.open()
    assert answer(bob, op)[1] == absent


def expire(store: Store) -> None:
    store.clock.now += 31 * 86_400
    assert outbox.expire(store.database, int(store.clock.now), 86_400) == [POST]


def test_a_stranger_changes_nothing_of_what_he_asks_for(store: Store) -> None:
    mallory, alice, bob = (store.talker(person) for person in (MALLORY, ALICE, BOB))
    alice.keep(BOB, bytes(LARGE), post_id=POST)
    for op in ("ack", "withdraw", "fetch"):
        answer(mallory, op)
    assert bob.ack(POST) == mallory.ack(POST) == {"acknowledged": 1}
    assert mallory.withdraw(POST) == ["absent"]
    assert alice.withdraw(POST) == ["fetched"]
