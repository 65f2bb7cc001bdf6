"""kill -9 of server, worker and notifier at once, in the middle of each operation: every post is delivered, once."""

import contextlib
import http.client
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.schema import chores, posts
from stubmail.datagram import Waiting
from stubmail.frames import ABSENT
from tests.support.databases import prepared
from tests.support.kill_points import KillPoint, kill_point
from tests.support.store import Person, Talker
from tests.support.store_process import StoreProcess
from tests.support.store_rows import assert_consistent
from tests.support.waiting import wait_until

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
SMALL, LARGE = 2_000, 1_500_000  # octets: in the transaction of its nonce, and in a file while it is received

# The point at which all is killed, for each operation: WHEN and NEEDLE as in tests/support/kill_points.py.
NONCE, SESSION, CHUNK, POST = "INSERT INTO nonces", "INSERT INTO sessions", "INSERT INTO chunks", "INSERT INTO posts"
END, READ = "UPDATE posts", "FROM chunks"


@dataclass
class Killable:
    """A store that is killed and started again, and two people whose sessions outlive that."""

    process: StoreProcess
    url: str
    point: KillPoint
    alice: Talker
    bob: Talker

    def killed(self, work: Callable[[], object], when: str, needle: str, skip: int = 0) -> None:
        """Have the store killed while it does something; then start it again."""
        self.point.set(when, needle, skip)
        with pytest.raises((OSError, http.client.HTTPException)):
            work()
        self.restart()

    def restart(self) -> None:
        """Wait for its end, and start it again."""
        self.process.close()
        self.point.clear()
        self.process.start()

    def keep(self, size: int = SMALL) -> tuple[bytes, bytes]:
        """Store a post; return its id and content."""
        body = os.urandom(size)
        return self.alice.keep(BOB, body)[0], b"head" + body

    def delivers(self, post_id: bytes, content: bytes) -> None:
        """Deliver the one post that waits, to the octet; after that it is gone, and its sender knows."""
        [listed] = self.bob.waiting(ALICE)["posts"]
        assert (listed["id"], listed["size"]) == (post_id.hex(), len(content))
        assert self.process.check(self.bob) == Waiting(1, listed["serial"])
        [(_, fetched)] = self.bob.fetch((post_id, 0))
        assert fetched == content
        self.bob.ack(post_id)
        self.ended(post_id, "fetched")

    def ended(self, post_id: bytes, state: str) -> None:
        """The post does not wait any more, and stands in the outbox once."""
        assert self.bob.waiting(ALICE)["posts"] == []
        assert [sent["state"] for sent in self.alice.outbox() if sent["id"] == post_id.hex()] == [state]
        with contextlib.closing(prepared(self.url)) as database:
            assert_consistent(database)
        assert list((self.process.spool / "incoming").iterdir()) == []
        assert "Traceback" not in self.process.text()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    root: Path = tmp_path_factory.mktemp("store")
    settings: dict[str, Any] = {}
    if request.param == "postgresql":
        cluster = request.getfixturevalue("cluster")
        settings["database"] = cluster.url(cluster.create())
    with kill_point(root) as point:
        process = StoreProcess(root, [ALICE], **settings)
        process.start()
        try:
            url = settings.get("database") or sqlite_url(process.spool / "store.db")
            yield Killable(process, url, point, process.talker(ALICE), process.talker(BOB))
        finally:
            process.close()


@pytest.mark.parametrize(("when", "needle"), [("statement", NONCE), ("before", SESSION), ("after", SESSION)])
def test_open(store: Killable, when: str, needle: str) -> None:
    post_id, content = store.keep()
    bob = Talker(store.process, BOB)  # type: ignore[arg-type]
    store.killed(bob.open, when, needle)
    assert bob.open().status_code == 200
    assert [post["id"] for post in bob.waiting(ALICE)["posts"]] == [post_id.hex()]
    store.delivers(post_id, content)


@pytest.mark.parametrize(
    ("size", "when", "needle"),
    [
        (SMALL, "statement", POST),
        (SMALL, "before", POST),
        (SMALL, "after", POST),
        (LARGE, "after", NONCE),  # while it is received
        (LARGE, "statement", CHUNK),
        (LARGE, "after", POST),
    ],
)
def test_store(store: Killable, size: int, when: str, needle: str) -> None:
    post_id, body = secrets.token_bytes(16), os.urandom(size)
    store.killed(lambda: store.alice.keep(BOB, body, post_id=post_id), when, needle)
    there = [sent["id"] for sent in store.alice.outbox() if sent["id"] == post_id.hex()]
    assert len(there) == (when == "after" and needle == POST)
    assert store.alice.keep(BOB, body, post_id=post_id)[1]["state"] == "stored"
    store.delivers(post_id, b"head" + body)


@pytest.mark.parametrize(("when", "needle"), [("after", NONCE), ("statement", "FROM tallies")])
def test_list(store: Killable, when: str, needle: str) -> None:
    post_id, content = store.keep()
    store.killed(lambda: store.bob.waiting(ALICE), when, needle)
    store.delivers(post_id, content)


@pytest.mark.parametrize(("needle", "skip"), [(NONCE, 0), (READ, 0), (READ, 3)])
def test_fetch(store: Killable, needle: str, skip: int) -> None:
    """Before the answer begins, and in the middle of it."""
    post_id, content = store.keep(LARGE)
    store.killed(lambda: store.bob.fetch((post_id, 0)), "statement", needle, skip)
    store.delivers(post_id, content)


@pytest.mark.parametrize("when", ["statement", "before", "after"])
def test_ack(store: Killable, when: str) -> None:
    post_id, content = store.keep(LARGE)
    store.killed(lambda: store.bob.ack(post_id), when, END)
    if when != "after":
        store.delivers(post_id, content)
    assert store.bob.ack(post_id) == {"acknowledged": 1}
    assert [frame.state for frame, _ in store.bob.fetch((post_id, 0))] == [ABSENT]
    store.ended(post_id, "fetched")


def test_outbox(store: Killable) -> None:
    post_id, content = store.keep()
    store.killed(store.alice.outbox, "after", NONCE)
    assert [sent["state"] for sent in store.alice.outbox() if sent["id"] == post_id.hex()] == ["waiting"]
    store.delivers(post_id, content)


@pytest.mark.parametrize("when", ["before", "after"])
def test_withdraw(store: Killable, when: str) -> None:
    post_id, content = store.keep(LARGE)
    store.killed(lambda: store.alice.withdraw(post_id), when, END)
    fetched = store.bob.fetch((post_id, 0))[0][1]
    assert fetched == (content if when == "before" else b"")
    assert store.alice.withdraw(post_id) == ["withdrawn"]
    store.ended(post_id, "withdrawn")


@pytest.mark.parametrize("when", ["before", "after"])
def test_expire(store: Killable, when: str) -> None:
    over, _ = store.keep(LARGE)
    post_id, content = store.keep()
    store.point.set(when, END)
    with contextlib.closing(prepared(store.url)) as database, database.write() as connection:
        connection.execute(posts.update().where(posts.c.id == over).values(due=int(time.time()) - 1))
        connection.execute(chores.update().where(chores.c.name == "posts").values(due=0))
    open_file = Path(f"/proc/{store.process.pid}/fd/0")  # a process that nobody has waited for is there, without files
    wait_until(lambda: not open_file.exists(), 30, "the end of the store")
    store.restart()

    def states() -> list[str]:
        return [sent["state"] for sent in store.alice.outbox() if sent["id"] == over.hex()]

    if when == "before":  # whoever had taken on the chore is dead; a minute later it is anybody's again
        with contextlib.closing(prepared(store.url)) as database, database.write() as connection:
            connection.execute(chores.update().where(chores.c.name == "posts").values(due=0))
    wait_until(lambda: states() == ["expired"], 30, "the post's end")
    store.delivers(post_id, content)
    store.ended(over, "expired")
