"""A store moved to another database: nothing lost, and never do both take posts."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from services.post_manager.storage import mailbox, marks, moving, outbox, posts
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.errors import Conflict, StorageDamaged, StorageError
from services.post_manager.storage.posts import NewPost
from services.post_manager.storage.snapshot import held
from stubmail.errors import Exit
from tests.support import histories
from tests.support.histories import HEAD, KEEP, RECIPIENTS, SENDERS, TERMS, damages, everything
from tests.support.store_rows import Octets, assert_consistent, rows

NOW = 1_000_000


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Database]:
    """A database of SQLite; ``database`` is one of each engine."""
    with contextlib.closing(histories.new_database(tmp_path / "other.db")) as database:
        yield database


@pytest.fixture(params=["there", "back"])
def both(request: pytest.FixtureRequest, database: Database, other: Database) -> tuple[Database, Database]:
    """From SQLite to each engine, and the other way round."""
    return (other, database) if request.param == "there" else (database, other)


def keep_one(database: Database) -> list[posts.Refused | None]:
    new = [NewPost(os.urandom(16), RECIPIENTS[0], "bob@beta.example", HEAD, 0)]
    return posts.store(database, SENDERS[0], new, [Octets(b"late")], TERMS, NOW)


def test_all_posts_arrive_as_they_were(both: tuple[Database, Database]) -> None:
    source, target = both
    now = histories.play(source, Random(5), NOW, 40)
    before = everything(source)
    copied = moving.move(source, target)
    assert copied is not None
    assert copied.posts == len(before)
    assert everything(target) == before
    assert_consistent(target)
    assert damages(target) == []
    histories.play(target, Random(6), now, 20)
    assert everything(target).keys() > before.keys()
    assert_consistent(target)


def test_a_store_that_was_moved_changes_no_more(both: tuple[Database, Database]) -> None:
    source, target = both
    histories.play(source, Random(5), NOW, 20)
    assert keep_one(source) == [None]
    before = everything(source)
    waiting = [key for key, row in before.items() if row["state"] == 0]
    moving.move(source, target)
    for change in (
        lambda: keep_one(source),
        lambda: outbox.withdraw(source, SENDERS[0].fingerprint, waiting, NOW, KEEP),
        lambda: [mailbox.acknowledge(source, recipient, waiting, NOW, KEEP) for recipient in RECIPIENTS],
        lambda: outbox.expire(source, NOW * 2, KEEP),
        lambda: outbox.forget(source, NOW * 9),
    ):
        with pytest.raises(StorageError, match="moved"):
            change()
    assert everything(source) == before
    with source.read() as connection, pytest.raises(Exit, match=r"set \[post_manager\] database"):
        marks.refuse_marked(connection)
    with pytest.raises(Exit, match="moved already"):
        moving.move(source, target)


def test_a_target_that_holds_posts_is_refused(both: tuple[Database, Database]) -> None:
    source, target = both
    keep_one(target)
    before = everything(target)
    with pytest.raises(Exit, match="not empty"):
        moving.move(source, target)
    assert everything(target) == before
    assert keep_one(source) == [None]


def test_a_damaged_source_is_not_moved(both: tuple[Database, Database]) -> None:
    source, target = both
    keep_one(source)
    with source.write() as connection:
        connection.exec_driver_sql("DELETE FROM chunks")
    with pytest.raises(StorageDamaged, match="chunk 0 of content"):
        moving.move(source, target)
    assert keep_one(source) == [None]
    with target.read() as connection, pytest.raises(Exit, match="not complete"):
        marks.refuse_marked(connection)


def test_what_an_attempt_that_was_cut_short_left_is_cleared_away(both: tuple[Database, Database]) -> None:
    source, target = both
    histories.play(source, Random(5), NOW, 10)
    keep_one(target)
    with target.write() as connection:
        marks.put(connection, marks.ARRIVING, 5)
    moving.move(source, target)
    assert everything(target) == everything(source)
    assert_consistent(target)


def test_when_only_the_last_word_was_missing_it_is_said(both: tuple[Database, Database]) -> None:
    source, target = both
    histories.play(source, Random(5), NOW, 10)
    moving.move(source, target)
    before = everything(target)
    with source.read() as connection:
        number = marks.read(connection, marks.MOVED)
    with target.write() as connection:
        marks.put(connection, marks.ARRIVING, number or 0)
    assert moving.move(source, target) is None
    assert everything(target) == before
    with target.read() as connection:
        marks.refuse_marked(connection)


def test_while_a_file_is_held_others_are_refused_at_once(tmp_path: Path, other: Database) -> None:
    keep_one(other)
    with contextlib.closing(Database(sqlite_url(tmp_path / "other.db"), 1)) as store:
        with held(other):
            with pytest.raises(StorageError, match="moved elsewhere"):
                keep_one(store)
            with pytest.raises(StorageError, match="moved elsewhere"), held(store):
                pass
            assert rows(store, "posts") == 1
        (tmp_path / "other.db-hold").touch()  # as a process that was killed leaves it
        assert keep_one(store) == [None]
    with pytest.raises(Conflict), other.write():
        raise Conflict
