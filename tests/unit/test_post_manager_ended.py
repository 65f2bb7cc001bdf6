"""The outbox in the order in which posts ended unfetched (protocol.md §5.6), on every engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from services.post_manager.storage import schema
from tests.support.store import NOW, Clock, Person, Store, Talker, code, running_store

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Iterator[Store]:
    with running_store(tmp_path, [ALICE], Clock(), database=database_url) as store:
        yield store


@pytest.fixture
def alice(store: Store) -> Talker:
    return store.talker(ALICE)


def ended(alice: Talker, since: int, after: int = 0, **members: Any) -> list[str]:
    return [post["id"] for post in alice.outbox(since=since, after=after, **members)]


def test_posts_come_in_the_order_in_which_they_ended(store: Store, alice: Talker) -> None:
    ids = [alice.keep(BOB, b"body %d" % number)[0] for number in range(4)]
    store.clock.now = NOW + 10
    alice.withdraw(ids[2])
    store.clock.now = NOW + 20
    alice.withdraw(ids[0], ids[1])
    wanted = [post_id.hex() for post_id in (ids[2], ids[0], ids[1])]
    assert ended(alice, 0) == wanted
    assert ended(alice, NOW + 10) == wanted
    assert ended(alice, NOW + 11) == wanted[1:]
    assert ended(alice, NOW + 21) == []
    assert ended(alice, 0, states=["expired"]) == []
    assert ended(alice, 0, states=["waiting"]) == []


def test_a_page_goes_on_behind_the_last_post_s_time_and_serial(store: Store, alice: Talker) -> None:
    ids = [alice.keep(BOB, b"body %d" % number)[0] for number in range(5)]
    store.clock.now = NOW + 10
    alice.withdraw(*ids)
    found: list[str] = []
    since, after, more = 0, 0, True
    while more:
        page = alice.send("outbox", {"since": since, "after": after, "limit": 2}).get_json()
        found += [post["id"] for post in page["posts"]]
        since, after, more = page["posts"][-1]["changed"], page["posts"][-1]["serial"], page["more"]
    assert found == [post_id.hex() for post_id in ids]


def test_what_was_fetched_is_not_among_them(store: Store, alice: Talker) -> None:
    post_id, _ = alice.keep(BOB, b"body")
    store.talker(BOB).ack(post_id)
    assert ended(alice, 0) == []
    assert [post["state"] for post in alice.outbox()] == ["fetched"]


@pytest.mark.parametrize("since", [-1, "now", 1.5, None, True])
def test_a_time_that_is_none_is_refused(alice: Talker, since: object) -> None:
    assert code(alice.send("outbox", {"after": 0, "limit": 1, "since": since})) == "malformed"


def test_what_did_not_end_costs_nothing(tmp_path: Path) -> None:
    with running_store(tmp_path, [ALICE]) as store, store.database.read() as connection:
        plan = connection.execute(
            text(
                f"EXPLAIN QUERY PLAN SELECT id FROM posts WHERE sender = :sender AND {schema.ENDED}"
                " AND (changed, serial) > (:since, :after) ORDER BY changed, serial LIMIT 9"
            ),
            {"sender": ALICE.fingerprint, "since": 5, "after": 5},
        ).all()
    assert "posts_by_end (sender=? AND changed>?)" in str(plan)
