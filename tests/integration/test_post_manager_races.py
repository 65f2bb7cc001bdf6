"""Two gateways that store the same post id at the same moment, over HTTP: one post comes of it, and both know."""

import contextlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.post_manager.storage.engines import sqlite_url
from stubmail.frames import ABSENT, CONTENT
from tests.support.databases import prepared
from tests.support.store import Person, Talker
from tests.support.store_process import StoreProcess, store_process
from tests.support.store_rows import assert_consistent, rows

ALICE, AMY = Person("alice@alpha.example"), Person("amy@alpha.example")
BOB, CAROL = Person("bob@beta.example"), Person("carol@gamma.example")
ROUNDS = 50
SIZES = (0, 300, 70_000, 400_000)  # octets: in one piece, in several, and too many to wait for before they are judged
SEED = 4

Result = dict[str, Any]


class Stores:
    """Two ways to one store: two workers on a file, or two replicas at a server; ``url`` is the database's."""

    def __init__(self, first: StoreProcess, second: StoreProcess, url: str) -> None:
        self.both = first, second
        self.url = url
        self._together = threading.Barrier(2)

    def at_once(self, wanted: list[tuple[Talker, Person, bytes, bytes]], post_id: bytes) -> list[Result]:
        """Have both store a post with the same id at once; return what each is told."""

        def keep(talker: Talker, to: Person, head: bytes, body: bytes) -> Result:
            self._together.wait(30)
            return talker.keep(to, body, head, post_id)[1]

        with ThreadPoolExecutor(2) as pool:
            return [future.result(60) for future in [pool.submit(keep, *each) for each in wanted]]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    accounts = [ALICE, AMY]
    if request.param == "sqlite":
        with store_process(tmp_path, accounts, workers=2, threads=4) as store:
            yield Stores(store, store, sqlite_url(store.spool / "store.db"))
        return
    url = str(request.getfixturevalue("postgresql_url"))
    with contextlib.ExitStack() as stack:
        replicas = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            replicas.append(stack.enter_context(store_process(tmp_path / name, accounts, database=url)))
        yield Stores(replicas[0], replicas[1], url)


def test_the_same_post_is_stored_once_and_both_are_told_so(stores: Stores) -> None:
    gateways, bob = [store.talker(ALICE) for store in stores.both], stores.both[0].talker(BOB)
    seeded, kept = random.Random(SEED), {}
    for number in range(ROUNDS):
        post_id, body = seeded.randbytes(16), seeded.randbytes(SIZES[number % 4])
        results = stores.at_once([(gateway, BOB, b"head", body) for gateway in gateways], post_id)
        assert results == [{"id": post_id.hex(), "state": "stored"}] * 2
        kept[post_id] = b"head" + body
    assert waiting(bob, ALICE) == kept
    assert len(gateways[0].outbox()) == ROUNDS
    assert_whole(stores, ROUNDS)


def test_of_two_contents_under_one_id_one_is_kept_as_it_came(stores: Stores) -> None:
    """A gateway that lost its copy seals the same message anew: that is the same post (protocol.md §5.2)."""
    gateways, bob = [store.talker(ALICE) for store in stores.both], stores.both[0].talker(BOB)
    seeded, offered = random.Random(SEED), {}
    for number in range(ROUNDS):
        post_id, size = seeded.randbytes(16), SIZES[number % 4]
        contents = [(b"one" + seeded.randbytes(9), seeded.randbytes(size)), (b"other", seeded.randbytes(size + 1))]
        results = stores.at_once([(g, BOB, *content) for g, content in zip(gateways, contents, strict=True)], post_id)
        assert results == [{"id": post_id.hex(), "state": "stored"}] * 2
        offered[post_id] = [head + body for head, body in contents]
    found = waiting(bob, ALICE)
    assert found.keys() == offered.keys()
    assert all(found[post_id] in contents for post_id, contents in offered.items())
    assert_whole(stores, ROUNDS)


@pytest.mark.parametrize("differ", ["recipient", "sender"])
def test_an_id_that_two_posts_claim_belongs_to_one_of_them(stores: Stores, differ: str) -> None:
    senders = (ALICE, AMY) if differ == "sender" else (ALICE, ALICE)
    readers = (BOB, CAROL) if differ == "recipient" else (BOB, BOB)
    gateways = [store.talker(sender) for store, sender in zip(stores.both, senders, strict=True)]
    seeded, kept = random.Random(SEED), {}
    for number in range(ROUNDS):
        post_id, size = seeded.randbytes(16), SIZES[number % 4]
        contents = [(b"one", seeded.randbytes(size)), (b"other", seeded.randbytes(size))]
        wanted = [(g, to, *content) for g, to, content in zip(gateways, readers, contents, strict=True)]
        results = stores.at_once(wanted, post_id)
        assert sorted(result["state"] for result in results) == ["refused", "stored"]
        [refused] = [result for result in results if result["state"] == "refused"]
        assert (refused["id"], refused["error"]) == (post_id.hex(), "id")
        assert refused["message"] == "that id belongs to another post"
        winner = results.index({"id": post_id.hex(), "state": "stored"})
        kept[post_id] = readers[winner], senders[winner], b"".join(contents[winner])
    for reader in set(readers):
        talker = stores.both[1].talker(reader)
        for sender in set(senders):
            mine = {i: content for i, (to, by, content) in kept.items() if (to, by) == (reader, sender)}
            assert waiting(talker, sender) == mine
        others = [(post_id, 0) for post_id, (to, _, _) in kept.items() if to != reader]
        assert all(frame.state == ABSENT for frame, _ in talker.fetch(*others))
    assert_whole(stores, ROUNDS)


def waiting(reader: Talker, sender: Person) -> dict[bytes, bytes]:
    """All that waits for somebody from somebody, by id."""
    ids = [bytes.fromhex(post["id"]) for post in reader.waiting(sender)["posts"]]
    found = reader.fetch(*((post_id, 0) for post_id in ids))
    assert {frame.state for frame, _ in found} <= {CONTENT}
    return {frame.id: content for frame, content in found}


def assert_whole(stores: Stores, posts: int) -> None:
    """So many posts, every sum right, and no content that nobody's post needs."""
    with contextlib.closing(prepared(stores.url)) as database:
        assert rows(database, "posts") == posts
        assert_consistent(database)
    for store in stores.both:
        assert list((store.spool / "incoming").iterdir()) == []
        assert "Traceback" not in store.text()
