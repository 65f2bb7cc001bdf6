"""Damage: found and named post by post; a damaged file is served as far as it goes, and never written again."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update

from services.post_manager.chores import Chores
from services.post_manager.storage import damage, posts, schema
from services.post_manager.storage.contents import CHUNK
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import StorageError
from services.post_manager.storage.examination import Damage, Examination, Seen
from services.post_manager.storage.posts import NewPost
from services.post_manager.storage.snapshot import snapshot
from stubmail.errors import Exit
from tests.support.damaging import spoil
from tests.support.histories import HEAD, RECIPIENTS, SENDERS, TERMS
from tests.support.store import Person, Store, Talker, code, running_store
from tests.support.store_rows import Octets

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
NOW = 1_000_000
BODY = Octets(b"x" * (2 * CHUNK + 5))
TO_BOB, TO_BOTH = bytes([1]) * 16, [bytes([2]) * 16, bytes([3]) * 16]


@pytest.fixture
def filled(database: Database) -> Database:
    """A database with three posts: one to the first recipient, and a shared one to the first and the second."""
    new = [
        NewPost(TO_BOB, RECIPIENTS[0], "bob@beta.example", HEAD, 0),
        NewPost(TO_BOTH[0], RECIPIENTS[0], "bob@beta.example", HEAD, 1),
        NewPost(TO_BOTH[1], RECIPIENTS[1], "dora@delta.example", HEAD, 1),
    ]
    assert posts.store(database, SENDERS[0], new, [Octets(b"a"), BODY], TERMS, NOW) == [None] * 3
    return database


def examine(database: Database) -> tuple[Seen, list[Damage]]:
    found: list[Damage] = []
    with snapshot(database) as kept:
        seen = Examination(kept, found.append).run()
    return seen, found


def change(database: Database, *statements: object) -> None:
    with database.write() as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def test_a_good_database_has_no_damage(filled: Database) -> None:
    assert examine(filled) == (Seen(posts=3, waiting=3, contents=2, octets=BODY.size + 1), [])


_P, _C, _K = schema.posts, schema.contents, schema.chunks
_SHARED = _C.c.size == BODY.size


@pytest.mark.parametrize(
    ("statements", "named", "texts"),
    [
        ([delete(_K).where(_K.c.number == 1)], TO_BOTH, ["chunk 1 of content", "is missing"]),
        ([update(_K).where(_K.c.number == 2).values(data=b"abc")], TO_BOTH, ["chunk 2", "3 octets instead of 5"]),
        ([update(_K).where(_K.c.number == 1).values(data=b"y" * CHUNK)], TO_BOTH, ["its digest differs"]),
        ([update(_C).where(_SHARED).values(digest=bytes(32))], TO_BOTH, ["its digest differs"]),
        ([update(_C).where(_SHARED).values(size=BODY.size + 1)], TO_BOTH, ["instead of 6", "octets, but has"]),
        ([update(_C).where(_SHARED).values(refs=7)], [], ["2 waiting posts use it, 7 are noted"]),
        ([update(_C).where(_SHARED).values(sender="F" * 40)], TO_BOTH, ["belongs to FFFF"]),
        ([delete(_C).where(_SHARED)], TO_BOTH, ["is missing", "3 chunks too many"]),
        ([insert(_K).values(content=99, number=0, data=b"x")], [], ["content 99: 1 chunks too many"]),
        ([update(_P).where(_P.c.id == TO_BOB).values(content=None)], [TO_BOB], ["waits without content", "an orphan"]),
        ([update(_P).where(_P.c.id == TO_BOB).values(head=None)], [TO_BOB], ["waits without content"]),
        ([update(_P).where(_P.c.id == TO_BOB).values(size=99)], [TO_BOB], ["it says it has 99 octets, but has 6"]),
        ([update(_P).where(_P.c.id == TO_BOB).values(state=9)], [TO_BOB], ["its id or state is impossible"]),
        ([update(_P).where(_P.c.id == TO_BOB).values(state=1)], [TO_BOB], ["no longer waits, but has content"]),
        (
            [update(_P).where(_P.c.id == TO_BOB).values(head=b"\xc1\x00\xd2\x00", size=5)],
            [TO_BOB],
            ["not made of session"],
        ),
        ([update(_P).where(_P.c.id == TO_BOB).values(head=b"head!")], [TO_BOB], ["cannot be read as OpenPGP"]),
        ([update(schema.tallies).values(posts=5)], [], ["2 wait, 5 are noted", "1 wait, 5 are noted"]),
        ([delete(schema.tallies)], [], ["2 wait, 0 are noted"]),
        (
            [insert(schema.tallies).values(recipient="E" * 40, sender="A" * 40, address="x@y", posts=1)],
            [],
            ["none wait, 1 are noted"],
        ),
        ([update(schema.usage).values(octets=1)], [], ["wait 3 posts with", "3 posts with 1 octets are noted"]),
        ([delete(schema.usage)], [], ["0 posts with 0 octets are noted"]),
        ([insert(schema.usage).values(sender="F" * 40, posts=0, octets=3)], [], ["waits nothing, 0 posts with 3"]),
        ([update(schema.counters).values(value=1)], [], ["counter of serials stands at 1"]),
        ([delete(schema.counters)], [], ["the counter of serials is missing"]),
    ],
)
def test_each_damage_is_named(filled: Database, statements: list[object], named: list[bytes], texts: list[str]) -> None:
    change(filled, *statements)
    _, found = examine(filled)
    lines = "\n".join(damage.text for damage in found)
    for wanted in texts:
        assert wanted in lines
    for post_id in named:
        [line] = [damage.text for damage in found if damage.text.startswith(f"post {post_id.hex()} ")]
        assert f"from {SENDERS[0].fingerprint} ({SENDERS[0].address}) to " in line
    assert sum(damage.text.startswith("post ") for damage in found) == len(named)


def test_what_a_client_sealed_wrongly_is_told_from_what_the_store_lost(filled: Database) -> None:
    change(filled, update(_P).where(_P.c.id == TO_BOB).values(head=b"head!"))
    assert [damage.sealed for damage in examine(filled)[1]] == [True]
    change(filled, delete(_K))
    assert not any(damage.sealed for damage in examine(filled)[1] if "chunk 0" in damage.text)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with running_store(tmp_path, [ALICE]) as store:
        yield store


def digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def test_a_store_with_a_damaged_file_serves_reads_and_refuses_writes(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store.db"
    alice = store.talker(ALICE)
    ids = [alice.keep(BOB, b"body")[0] for _ in range(2)]
    bob = store.talker(BOB)
    bob.ack(ids[1])
    damage.mark(path, "as somebody found out")
    damage.mark(path, "and somebody else")
    assert caplog.text.count("is damaged: what can be read of it is served") == 1
    assert damage.marker(path).read_text() == "as somebody found out\n"
    before = digest(path), digest(path.with_name("store.db-wal"))
    # Sessions from before the damage are not written where they could be found again.
    alice, bob = store.talker(ALICE), store.talker(BOB)
    assert [item["id"] for item in bob.waiting(ALICE)["posts"]] == [ids[0].hex()]
    assert [content for _, content in bob.fetch((ids[0], 0))] == [b"headbody"]
    assert {sent["state"] for sent in alice.outbox()} == {"waiting", "fetched"}
    late = {"id": "00" * 16, "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 0}
    for refused in (
        bob.send("ack", {"ids": [ids[0].hex()]}),
        bob.send("ack", {"ids": ["00" * 16]}),
        alice.send("withdraw", {"ids": [ids[0].hex()]}),
        alice.send("store", {"posts": [late]}, [b"x"]),
    ):
        assert code(refused) == "unavailable"
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
    Chores(store.database, lambda: 10**10, 0).run_due()
    assert [content for _, content in bob.fetch((ids[0], 0))] == [b"headbody"]
    assert (digest(path), digest(path.with_name("store.db-wal"))) == before
    damage.clear(path)
    store.database.reopen()
    assert store.talker(ALICE).keep(BOB, b"again")[1]["state"] == "stored"


def test_damage_that_a_query_meets_is_remembered(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "store.db"
    ids = [store.talker(ALICE).keep(BOB, b"body")[0] for _ in range(2)]
    spoil(path, "posts_by_recipient")
    store.database.reopen()  # what is in memory is still good
    bob = store.talker(BOB)
    assert not damage.is_marked(path)
    assert code(bob.send("list", {"senders": [ALICE.fingerprint], "after": 0, "limit": 1})) == "unavailable"
    assert damage.is_marked(path)
    before = digest(path)
    bob = store.talker(BOB)
    assert store.database.read_only
    assert [content for _, content in bob.fetch((ids[0], 0), (ids[1], 0))] == [b"headbody"] * 2
    assert code(bob.send("ack", {"ids": [ids[0].hex()]})) == "unavailable"
    store.database.close()
    assert digest(path) == before


@pytest.mark.parametrize("table", ["posts_by_recipient", "tallies", "nonces", "chunks", "sessions_by_expiry"])
def test_damage_is_found_when_the_store_starts(tmp_path: Path, table: str) -> None:
    path = tmp_path / "store.db"
    with running_store(tmp_path, [ALICE]) as store:
        store.talker(ALICE).keep(BOB, b"body")
    spoil(path, table)
    before = digest(path)
    with running_store(tmp_path, [ALICE]) as store:
        assert store.database.read_only
        store.talker(ALICE)
    assert digest(path) == before


@pytest.mark.parametrize("octets", [b"not a database " * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_database_is_left_alone_and_every_operation_says_503(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(octets)
    with running_store(tmp_path, [ALICE]) as store:
        assert store.database.read_only
        with pytest.raises(StorageError):
            schema.check(store.database)
        assert code(Talker(store, ALICE).open()) == "unavailable"
        assert code(Talker(store, ALICE).send("list", {"senders": [], "after": 0, "limit": 1})) == "unavailable"
    assert path.read_bytes() == octets


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(Exit, match="other tables"), running_store(tmp_path):
        pass
    assert not damage.is_marked(tmp_path / "store.db")
