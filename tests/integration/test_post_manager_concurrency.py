"""Many threads at one store, on each engine: every post once, every sum right, serials that never come too late."""

import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from services.post_manager.storage import contents, mailbox, nonces, outbox, posts, schema, sessions
from services.post_manager.storage.database import Database
from services.post_manager.storage.intake import KNOWN, Verdict
from services.post_manager.storage.nonces import Nonce
from services.post_manager.storage.posts import NewPost, Sender, Terms
from tests.support.databases import prepared
from tests.support.store_rows import Octets, assert_consistent, rows

SENDERS = [Sender(letter * 40, f"{letter.lower()}@alpha.example") for letter in "AC"]
READERS = ["B" * 40, "D" * 64]
TERMS = Terms(quota_posts=10**6, quota_octets=10**9, max_post=10**6, lifetime=1000)
NOW, KEEP = 1_000_000, 500
BODIES = [Octets(bytes([number]) * 3000) for number in range(4)]


@pytest.fixture
def stores(database_url: str) -> Iterator[list[Database]]:
    """One database as two processes have it open."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(prepared(database_url))) for _ in range(2)]


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run everything at the same moment; return the results. What one raises, this does."""
    together = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        together.wait(30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(60) for future in [pool.submit(run, work) for work in works]]


def new(reader: str, body: int = 0) -> NewPost:
    return NewPost(secrets.token_bytes(16), reader, "b@beta.example", b"head", body)


def keep(database: Database, sender: Sender, wanted: Sequence[NewPost]) -> list[Verdict]:
    return posts.store(database, sender, wanted, BODIES, TERMS, NOW)


def test_the_same_ids_stored_at_once_are_stored_once(stores: list[Database]) -> None:
    for _ in range(15):
        wanted = [new(READERS[0], number % 2) for number in range(3)]
        results = at_once(*(partial(keep, store, SENDERS[0], wanted) for store in stores * 2))
        for verdicts in zip(*results, strict=True):  # on one post
            assert sorted(map(str, verdicts)) == ["None", KNOWN, KNOWN, KNOWN]
    assert rows(stores[0], "posts") == 45
    assert_consistent(stores[0])


def test_an_id_that_two_senders_want_belongs_to_one_of_them(stores: list[Database]) -> None:
    for _ in range(15):
        post = new(READERS[0])
        works = [partial(keep, store, who, [post]) for store, who in zip(stores, SENDERS, strict=True)]
        codes = sorted(getattr(verdict, "code", "") for [verdict] in at_once(*works))  # type: ignore[misc]
        assert codes == ["", "id"]
    assert_consistent(stores[0])


@pytest.mark.parametrize("rival", ["withdraw", "expire", "ack"])
def test_a_post_ends_once_whoever_ends_it(stores: list[Database], rival: str) -> None:
    sender, reader = SENDERS[0], READERS[0]
    for _ in range(15):
        wanted = [new(reader, number) for number in range(4)]
        keep(stores[0], sender, wanted)
        ids = [post.id for post in wanted]

        def end(ids: list[bytes] = ids) -> set[bytes]:
            if rival == "withdraw":
                states, _ = outbox.withdraw(stores[1], sender.fingerprint, ids, NOW, KEEP)
                return {post_id for post_id, state in states.items() if state == schema.WITHDRAWN}
            if rival == "expire":
                return set(outbox.expire(stores[1], NOW + TERMS.lifetime, KEEP))
            return set(mailbox.acknowledge(stores[1], reader, ids[::-1], NOW, KEEP))

        def ack(ids: list[bytes] = ids) -> set[bytes]:
            return set(mailbox.acknowledge(stores[0], reader, ids, NOW, KEEP))

        fetched, ended = at_once(ack, end)
        assert isinstance(fetched, set)
        assert isinstance(ended, set)
        assert fetched | ended == set(ids)
        assert not fetched & ended
    assert rows(stores[0], "contents") == rows(stores[0], "chunks") == 0
    assert_consistent(stores[0])


def test_what_is_fetched_is_whole_or_gone(stores: list[Database]) -> None:
    reader = READERS[0]
    for _ in range(15):
        post = new(reader, 1)
        keep(stores[0], SENDERS[0], [post])

        def fetch(post: NewPost = post) -> bytes | None:
            found = mailbox.look_up(stores[0], reader, [post.id]).get(post.id)
            if found is None:
                return None
            with stores[0].read() as connection:
                return contents.read_chunk(connection, found.content, 0)

        def ack(post: NewPost = post) -> object:
            return mailbox.acknowledge(stores[1], reader, [post.id], NOW, KEEP)

        assert at_once(fetch, ack)[0] in (None, BODIES[1].data)


def test_who_has_seen_a_serial_never_sees_a_smaller_one_appear(stores: list[Database]) -> None:
    reader, done = READERS[0], threading.Event()

    def write(number: int) -> None:
        for _ in range(25):
            keep(stores[number % 2], SENDERS[number % 2], [new(reader, number)])

    def watch() -> list[int]:
        seen: list[int] = []
        while True:
            last = done.is_set()
            while page := mailbox.page(stores[0], reader, [s.fingerprint for s in SENDERS], max(seen, default=0), 50):
                seen += [post.serial for post in page.posts]
                if not page.more:
                    break
            if last:
                return seen

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            at_once(*(partial(write, number) for number in range(4)))
        finally:
            done.set()
        seen = watching.result(60)
    # Always asking for what comes after the last one, the reader has missed none.
    assert len(seen) == 100
    assert seen == sorted(set(seen))


def test_everything_at_once_leaves_every_sum_right(stores: list[Database]) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    lists: dict[str, list[bytes]] = {reader: [] for reader in READERS}

    def work(number: int) -> None:
        dice, store = random.Random(seed + number), stores[number % 2]
        for _ in range(25):
            reader, sender = dice.choice(READERS), dice.choice(SENDERS)
            action = dice.randrange(5)
            some = dice.sample(lists[reader], min(3, len(lists[reader])))
            if action < 2:
                wanted = [new(dice.choice(READERS), dice.randrange(4)) for _ in range(dice.randrange(1, 4))]
                assert keep(store, sender, wanted) == [None] * len(wanted)
                for post in wanted:
                    lists[post.recipient].append(post.id)
            elif action == 2:
                mailbox.acknowledge(store, reader, some, NOW, KEEP)
            elif action == 3:
                outbox.withdraw(store, sender.fingerprint, some, NOW, KEEP)
            else:
                outbox.expire(store, NOW + TERMS.lifetime * dice.randrange(2), KEEP)

    began = time.monotonic()
    at_once(*(partial(work, number) for number in range(6)))
    assert_consistent(stores[0])
    assert rows(stores[0], "posts") == sum(map(len, lists.values()))
    assert time.monotonic() - began < 60


def test_a_nonce_is_good_for_one_of_those_who_bring_it(stores: list[Database]) -> None:
    for _ in range(15):
        nonce = Nonce("s" * 32, secrets.token_bytes(16), NOW)
        results = at_once(*(partial(nonces.remember, store, nonce) for store in stores * 2))
        assert sorted(map(bool, results)) == [False, False, False, True]


def test_sessions_opened_at_once_are_all_good(stores: list[Database]) -> None:
    made = [sessions.new_session(READERS[0], "b@beta.example", NOW, secrets.token_bytes(16)) for _ in range(8)]
    at_once(*(partial(sessions.save, stores[n % 2], *one, NOW) for n, one in enumerate(made)))
    with stores[0].read() as connection:
        for session, _ in made:
            assert sessions.find_session(connection, session.id, NOW) == session
