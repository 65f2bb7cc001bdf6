"""Backups: all posts in a file of their own, and back into whatever has become of the store since."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.post_manager.storage import backups, mailbox, marks, posts, schema, serials
from services.post_manager.storage.copying import BATCH_OCTETS, Copied
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.posts import NewPost
from services.post_manager.storage.snapshot import snapshot
from stubmail.errors import Exit
from tests.support import histories
from tests.support.histories import HEAD, KEEP, RECIPIENTS, SENDERS, TERMS, damages, everything, without_serials
from tests.support.store_rows import Octets, assert_consistent, rows

NOW = 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with contextlib.closing(histories.new_database(tmp_path / "store.db")) as database:
        yield database


def back_up(database: Database, path: Path, now: int = NOW) -> Copied:
    with snapshot(database) as source:
        return backups.write(source, source.pages(), path, now)


def restore(path: Path, database: Database, now: int) -> Copied:
    with backups.opened(path) as source:
        return backups.merge(source, database, now)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32), before=st.integers(0, 25), after=st.integers(0, 25), into=st.sampled_from("snn"))
def test_a_restored_store_has_all_that_was_backed_up_and_what_happened_since(
    seed: int, before: int, after: int, into: str
) -> None:
    """Into the same store, later (``s``), or into a new one where other things happened (``n``)."""
    dice = Random(seed)
    with TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        store = stack.enter_context(contextlib.closing(histories.new_database(root / "store.db")))
        now = histories.play(store, dice, NOW, before)
        backed_up = everything(store)
        copied = back_up(store, root / "backup", now)
        with contextlib.closing(Database(sqlite_url(root / "backup"))) as backup:
            assert everything(backup) == backed_up
            assert_consistent(backup)
        if into == "n":
            store = stack.enter_context(contextlib.closing(histories.new_database(root / "new.db")))
        now = histories.play(store, dice, now, after)
        live = everything(store)
        added = restore(root / "backup", store, now)
        assert (added.posts, added.known) == (len(backed_up.keys() - live.keys()), len(backed_up.keys() & live.keys()))
        assert added.posts + added.known == copied.posts
        restored = everything(store)
        assert restored.keys() == backed_up.keys() | live.keys()
        assert {key: restored[key] for key in live} == live
        lost = {key: row for key, row in backed_up.items() if key not in live}
        assert without_serials({key: restored[key] for key in lost}) == without_serials(lost)
        highest = max((row["serial"] for row in [*backed_up.values(), *live.values()]), default=0)
        assert all(restored[key]["serial"] > max(highest, serials.floor(now)) for key in lost)
        order = sorted(lost, key=lambda key: lost[key]["serial"])
        assert order == sorted(lost, key=lambda key: restored[key]["serial"])
        assert_consistent(store)
        assert damages(store) == []
        again = restore(root / "backup", store, now)
        assert (again.posts, again.known) == (0, copied.posts)
        assert everything(store) == restored


@pytest.mark.parametrize("seed", range(3))
def test_a_backup_goes_from_each_engine_and_back_to_it(database: Database, tmp_path: Path, seed: int) -> None:
    dice = Random(seed)
    now = histories.play(database, dice, NOW, 30)
    before = everything(database)
    back_up(database, tmp_path / "backup", now)
    with database.write() as connection:
        for table in (schema.posts, schema.contents, schema.chunks, schema.tallies, schema.usage):
            connection.execute(table.delete())
    assert restore(tmp_path / "backup", database, now + 5).posts == len(before)
    assert without_serials(everything(database)) == without_serials(before)
    assert_consistent(database)
    assert damages(database) == []


def test_serials_go_on_behind_those_of_the_backup(store: Database, tmp_path: Path) -> None:
    far = NOW * 1000  # the clock was wrong when the backup was made
    posts.store(
        store, SENDERS[0], [NewPost(bytes(16), RECIPIENTS[0], "b@b.example", HEAD, 0)], [Octets(b"")], TERMS, far
    )
    back_up(store, tmp_path / "backup")
    with contextlib.closing(histories.new_database(tmp_path / "new.db")) as new:
        restore(tmp_path / "backup", new, NOW)
        with new.read() as connection:
            assert mailbox.waiting(connection, RECIPIENTS[0]) == (1, serials.floor(far) + 2)


def test_large_and_shared_contents_are_copied_once(store: Database, tmp_path: Path) -> None:
    large = Octets(os.urandom(BATCH_OCTETS + 5))
    new = [NewPost(os.urandom(16), recipient, "b@b.example", HEAD, 0) for recipient in RECIPIENTS]
    small = [NewPost(os.urandom(16), RECIPIENTS[0], "b@b.example", HEAD, 1)]
    posts.store(store, SENDERS[0], [new[0], *small, *new[1:]], [large, Octets(b"x")], TERMS, NOW)
    copied = back_up(store, tmp_path / "backup")
    assert copied == Copied(posts=4, waiting=4, contents=2, octets=large.size + 1)
    with contextlib.closing(Database(sqlite_url(tmp_path / "backup"))) as backup:
        assert histories.body_of(backup, new[2].id) == large.data
        assert_consistent(backup)


def test_a_backup_is_private_whole_and_without_secrets(store: Database, tmp_path: Path) -> None:
    with store.write() as connection:
        connection.execute(schema.nonces.insert(), {"client": "A", "nonce": bytes(16), "time": 1})
        connection.execute(schema.keys.insert(), {"name": "store", "value": bytes(32)})
    histories.play(store, Random(1), NOW, 10)
    back_up(store, tmp_path / "backup")
    assert sorted(path.name for path in tmp_path.iterdir() if "backup" in path.name) == ["backup"]
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    with contextlib.closing(sqlite3.connect(tmp_path / "backup")) as file:
        for table in ("sessions", "cookies", "nonces", "keys"):
            assert file.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        assert file.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_file_that_is_there_is_not_replaced_unasked(store: Database, tmp_path: Path) -> None:
    (tmp_path / "backup").write_text("dear to somebody")
    with pytest.raises(Exit, match="--force"):
        back_up(store, tmp_path / "backup")
    assert (tmp_path / "backup").read_text() == "dear to somebody"
    with snapshot(store) as source:
        backups.write(source, source.pages(), tmp_path / "backup", NOW, replace=True)
    assert restore(tmp_path / "backup", store, NOW) == Copied()


def test_two_backups_to_one_file_do_not_mix(store: Database, tmp_path: Path) -> None:
    histories.play(store, Random(1), NOW, 10)
    with snapshot(store) as source:
        pages = source.pages()

        def meddling() -> Iterator[object]:
            with pytest.raises(Exit, match="another backup"):
                back_up(store, tmp_path / "backup")
            yield from pages

        backups.write(source, meddling(), tmp_path / "backup", NOW)  # type: ignore[arg-type]
    with contextlib.closing(Database(sqlite_url(tmp_path / "backup"))) as backup:
        assert everything(backup) == everything(store)


def test_a_backup_shows_one_moment_while_others_write(database: Database, tmp_path: Path) -> None:
    now = histories.play(database, Random(2), NOW, 30)
    before = everything(database)
    with snapshot(database) as source:

        def busy() -> Iterator[object]:
            for page in source.pages():
                mailbox.acknowledge(database, RECIPIENTS[0], [row.id for row in page], now, KEEP)
                histories.play(database, Random(3), now, 10)
                yield page

        backups.write(source, busy(), tmp_path / "backup", now)  # type: ignore[arg-type]
    assert everything(database) != before
    with contextlib.closing(Database(sqlite_url(tmp_path / "backup"))) as backup:
        assert everything(backup) == before
        assert_consistent(backup)


def test_what_is_no_backup_is_refused(store: Database, tmp_path: Path) -> None:
    histories.play(store, Random(1), NOW, 10)
    back_up(store, tmp_path / "good")
    with pytest.raises(Exit, match="no file"):
        restore(tmp_path / "nowhere", store, NOW)
    (tmp_path / "text").write_text("not a database at all, however long it is " * 100)
    (tmp_path / "empty").write_text("")
    for name in ("text", "empty", "store.db"):
        with pytest.raises(Exit, match="no backup"):
            restore(tmp_path / name, store, NOW)
    with contextlib.closing(sqlite3.connect(tmp_path / "good")) as file:
        file.execute("UPDATE alembic_version SET version_num = '9999'")
        file.commit()
    with pytest.raises(Exit, match="version 9999"):
        restore(tmp_path / "good", store, NOW)


@pytest.mark.parametrize("mark", [marks.BACKUP, marks.ARRIVING, marks.MOVED])
def test_no_store_is_run_on_a_database_that_says_it_is_none(database: Database, mark: str) -> None:
    with database.write() as connection:
        marks.refuse_marked(connection)
        marks.put(connection, mark, 7)
    with database.read() as connection, pytest.raises(Exit):
        marks.refuse_marked(connection)
    with database.write() as connection:
        assert marks.read(connection, mark) == 7
        marks.remove(connection, mark)
        marks.refuse_marked(connection)
    assert rows(database, "counters") == 1
