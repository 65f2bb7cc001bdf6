"""kill -9 at every step of backup, restore and migrate: nothing half-made is taken for whole, all can be repeated."""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from random import Random

import pytest

from services.post_manager.storage import backups, damage, marks, moving, posts
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.errors import StorageError
from services.post_manager.storage.posts import NewPost
from services.post_manager.storage.snapshot import snapshot
from stubmail.errors import Exit
from tests.support import histories
from tests.support.databases import prepared
from tests.support.histories import HEAD, RECIPIENTS, SENDERS, TERMS, damages, everything, without_serials
from tests.support.killing import every_cut
from tests.support.store_rows import Octets, assert_consistent

NOW = 1_000_000


def opened(path: Path) -> contextlib.closing[Database]:
    return contextlib.closing(Database(sqlite_url(path), 2))


def back_up(path: Path, target: Path, *, replace: bool = False) -> None:
    with opened(path) as database, snapshot(database) as source:
        backups.write(source, source.pages(), target, NOW, replace=replace)


def filled(path: Path, seed: int = 1) -> dict[bytes, dict[str, object]]:
    """Make a store's database with a handful of posts; return them."""
    with contextlib.closing(histories.new_database(path)) as database:
        histories.play(database, Random(seed), NOW, 12)
        return everything(database)


def keep_one(database: Database) -> list[posts.Refused | None]:
    new = [NewPost(os.urandom(16), RECIPIENTS[0], "bob@beta.example", HEAD, 0)]
    return posts.store(database, SENDERS[0], new, [Octets(b"late")], TERMS, NOW)


def digests(directory: Path) -> set[bytes]:
    return {hashlib.sha256(path.read_bytes()).digest() for path in directory.iterdir()}


@pytest.mark.parametrize("replace", [False, True])
def test_a_backup_that_is_cut_short_is_not_there(tmp_path: Path, replace: bool) -> None:
    store, target = tmp_path / "store.db", tmp_path / "backup"
    before = filled(store)

    def work() -> None:
        back_up(store, target, replace=replace)

    whole = 0
    for step in every_cut(work, 2000, 3):
        if target.exists():
            whole += 1
            with backups.opened(target) as source:
                assert source.count()[0] == len(before)
            if not replace:
                target.unlink()
        elif replace:
            assert step < 2000  # an older one stays until the new one is whole
        with opened(store) as database:
            assert everything(database) == before
    back_up(store, target, replace=True)
    with opened(target) as database:
        assert everything(database) == before
    assert whole
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(("store.db", "backup"))}
    assert names == set()


def test_a_restore_that_is_cut_short_goes_on(tmp_path: Path) -> None:
    lost = filled(tmp_path / "old.db", 1)
    back_up(tmp_path / "old.db", tmp_path / "backup")
    live = filled(tmp_path / "new.db", 2)
    store = tmp_path / "store.db"

    def work() -> None:
        with opened(store) as database, backups.opened(tmp_path / "backup") as source:
            backups.merge(source, database, NOW)

    def fresh() -> None:
        for suffix in ("", "-wal", "-shm"):
            store.with_name(store.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(tmp_path / "new.db", store)

    fresh()
    for _ in every_cut(work, 2000):
        with opened(store) as database:
            assert_consistent(database)
            assert {key: row for key, row in everything(database).items() if key in live} == live
        work()
        with opened(store) as database:
            restored = everything(database)
            assert restored.keys() == live.keys() | lost.keys()
            assert without_serials({key: restored[key] for key in lost}) == without_serials(lost)
            assert_consistent(database)
            assert damages(database) == []
        fresh()


def test_a_damaged_file_is_replaced_by_a_whole_one_or_not_at_all(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    directory.mkdir()
    store = directory / "store.db"
    lost = filled(tmp_path / "old.db")
    back_up(tmp_path / "old.db", tmp_path / "backup")
    garbage = os.urandom(50_000)
    journal = os.urandom(5_000)

    def work() -> None:
        with backups.opened(tmp_path / "backup") as source:
            backups.put_in_place(source, store, NOW)

    def fresh() -> None:
        shutil.rmtree(directory)
        directory.mkdir()
        store.write_bytes(garbage)
        store.with_name("store.db-wal").write_bytes(journal)
        damage.mark(store, "it is garbage")

    fresh()
    kept = digests(directory) - {hashlib.sha256(damage.marker(store).read_bytes()).digest()}
    for _ in every_cut(work, 2000, 3):
        assert kept <= digests(directory)  # never overwritten, whatever it is called
        if damage.is_marked(store):
            with opened(store) as database:
                assert database.read_only
                with pytest.raises(StorageError):
                    keep_one(database)
            work()
        with opened(store) as database:
            assert without_serials(everything(database)) == without_serials(lost)
            assert_consistent(database)
            assert keep_one(database) == [None]
        assert kept <= digests(directory)
        [aside] = [path for path in directory.glob("store.db.damaged-*") if path.read_bytes() == garbage]
        assert aside.with_name(aside.name + "-wal").read_bytes() == journal
        fresh()


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_a_move_that_is_cut_short_leaves_one_store_that_takes_posts(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    before = filled(tmp_path / "old.db")
    store = tmp_path / "store.db"
    cluster = request.getfixturevalue("cluster") if engine == "postgresql" else None

    def fresh() -> str:
        for path in [*tmp_path.glob("store.db*"), *tmp_path.glob("target.db*")]:
            path.unlink()
        shutil.copyfile(tmp_path / "old.db", store)
        return cluster.url(cluster.create()) if cluster else sqlite_url(tmp_path / "target.db")

    def work() -> None:
        with opened(store) as source, contextlib.closing(prepared(url, 2)) as target:
            moving.move(source, target)

    url = fresh()
    unfinished = 0
    for _ in every_cut(work, 2000, 3 if cluster is None else 5):
        with opened(store) as source, contextlib.closing(prepared(url, 2)) as target:
            with source.read() as connection:
                moved = marks.read(connection, marks.MOVED) is not None
            with target.read() as connection:
                arriving = marks.read(connection, marks.ARRIVING) is not None
            assert everything(source) == before
            if moved:
                unfinished += arriving
                with pytest.raises(StorageError, match="moved"):
                    keep_one(source)
                assert everything(target) == before
            else:
                assert arriving or everything(target) == {}
                assert keep_one(source) == [None]
            now = everything(source)
            if arriving or not moved:
                moving.move(source, target)
            assert everything(target) == now
            assert_consistent(target)
            assert keep_one(target) == [None]
            with pytest.raises(Exit, match="moved already"):
                moving.move(source, target)
        url = fresh()
    assert unfinished or cluster is not None  # it was also killed between the two last words
