"""The versions of the store's tables: each leads to the next one, keeps what is there, and refuses another's."""

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, inspect

from services.post_manager.storage import mailbox, migrations, outbox, posts, schema
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.errors import StorageDamaged
from services.post_manager.storage.intake import KNOWN
from services.post_manager.storage.posts import NewPost, Sender, Terms
from stubmail.errors import Exit
from tests.support.store_rows import Octets, assert_consistent, rows

ALICE = Sender("A" * 40, "alice@alpha.example")
BOB = "B" * 40
TERMS = Terms(quota_posts=100, quota_octets=10**7, max_post=10**6, lifetime=1000)
NOW, KEEP = 1_000_000, 500
POST = NewPost(bytes(range(16)), BOB, "bob@beta.example", b"head", 0)
BODY = Octets(b"body")

# As the first program made it and wrote into it, before there were steps.
FIRST_MARK = Table("schema_version", MetaData(), Column("version", Integer, nullable=False))
FIRST_POST = {
    "posts": {
        "serial": 1,
        "id": POST.id,
        "state": schema.WAITING,
        "sender": ALICE.fingerprint,
        "sender_address": ALICE.address,
        "recipient": BOB,
        "address": POST.address,
        "size": 8,
        "stored": NOW,
        "changed": NOW,
        "expires": NOW + 1000,
        "due": NOW + 1000,
        "content": 1,
        "head": POST.head,
    },
    "contents": {"id": 1, "sender": ALICE.fingerprint, "digest": BODY.digest, "size": 4, "refs": 1},
    "chunks": {"content": 1, "number": 0, "data": BODY.data},
    "tallies": {"recipient": BOB, "sender": ALICE.fingerprint, "address": ALICE.address, "posts": 1},
    "usage": {"sender": ALICE.fingerprint, "posts": 1, "octets": 8},
}


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    with contextlib.closing(Database(empty_url)) as database:
        yield database


@pytest.fixture
def first(empty: Database) -> Database:
    """A database of version 1, with a post in it."""
    with empty.write() as connection:
        migrations.upgrade(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")
        _mark(connection, 1)
        reflected = MetaData()
        reflected.reflect(connection)
        for name, row in FIRST_POST.items():
            connection.execute(insert(reflected.tables[name]), row)
    return empty


def _mark(connection: Connection, version: int) -> None:
    FIRST_MARK.create(connection)
    connection.execute(insert(FIRST_MARK), {"version": version})


def version_of(database: Database) -> object:
    with database.read() as connection:
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()


def test_the_constant_is_where_the_steps_lead() -> None:
    assert migrations.head() == schema.VERSION


def test_the_steps_lead_to_the_tables_that_the_program_uses(empty: Database) -> None:
    schema.prepare(empty)
    with empty.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
        stepped = {name: _form(connection, name) for name in schema.metadata.tables}
    with empty.write() as connection:
        schema.metadata.drop_all(connection)
        schema.metadata.create_all(connection)
        assert {name: _form(connection, name) for name in schema.metadata.tables} == stepped
    schema.check(empty)


def _form(connection: Connection, table: str) -> object:
    """Everything about a table that compare_metadata leaves out, too."""
    look = inspect(connection)
    columns = [{**column, "type": str(column["type"])} for column in look.get_columns(table)]
    indexes = {str(index.pop("name")): index for index in look.get_indexes(table)}
    for index in indexes.values():  # the condition of a partial one comes as an object that equals no other
        index["dialect_options"] = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return columns, look.get_pk_constraint(table), indexes, look.get_unique_constraints(table)


def test_a_database_of_version_1_goes_on_with_its_posts(first: Database) -> None:
    with pytest.raises(Exit, match=f"version 0001 of its tables, this program needs {schema.VERSION}"):
        schema.check(first)
    schema.prepare(first)
    schema.check(first)
    assert version_of(first) == schema.VERSION
    with first.read() as connection:
        assert "schema_version" not in inspect(connection).get_table_names()
    [listed] = mailbox.page(first, BOB, [ALICE.fingerprint], 0, 10).posts
    assert (listed.id, listed.serial) == (POST.id, 1)
    assert posts.store(first, ALICE, [POST], [BODY], TERMS, NOW) == [KNOWN]
    second = NewPost(bytes(16), BOB, "bob@beta.example", b"head", 0)
    assert posts.store(first, ALICE, [second], [BODY], TERMS, NOW) == [None]
    assert_consistent(first)
    assert mailbox.acknowledge(first, BOB, [POST.id], NOW, KEEP) == [POST.id]
    sent, _ = outbox.page(first, ALICE.fingerprint, 0, 10, [])
    assert [(post.id, post.state) for post in sent] == [(POST.id, schema.FETCHED), (second.id, schema.WAITING)]
    assert_consistent(first)


def test_what_is_there_is_not_made_again(empty: Database) -> None:
    schema.prepare(empty)
    posts.store(empty, ALICE, [POST], [BODY], TERMS, NOW)
    schema.prepare(empty)
    assert rows(empty, "posts") == 1


def test_who_starts_at_the_same_moment_makes_the_tables_once(empty_url: str) -> None:
    together = threading.Barrier(4)

    def start() -> None:
        with contextlib.closing(Database(empty_url, 1)) as database:
            together.wait(30)
            schema.prepare(database)
            schema.check(database)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(start) for _ in range(4)]:
            future.result(60)
    with contextlib.closing(Database(empty_url, 1)) as database:
        assert rows(database, "counters") == 1
        assert rows(database, "chores") == len(schema.CHORES)


def test_a_step_that_fails_leaves_nothing(first: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE half (a INTEGER)")
        raise RuntimeError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "upgrade", half)
        with pytest.raises(RuntimeError):
            schema.prepare(first)
    assert version_of(first) == "0001"
    with first.read() as connection:
        assert "half" not in inspect(connection).get_table_names()
    schema.prepare(first)
    assert rows(first, "posts") == 1


def test_tables_of_a_newer_version_are_not_touched(empty: Database) -> None:
    schema.prepare(empty)
    with empty.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
    for look in (schema.prepare, schema.check):
        with pytest.raises(Exit, match="version 0099"):
            look(empty)
    assert version_of(empty) == "0099"


@pytest.mark.parametrize("version", ["", "ae1027a6acf", "0000"])
def test_another_programs_versions_are_not_ours(empty: Database, version: str) -> None:
    schema.prepare(empty)
    with empty.write() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
    for look in (schema.prepare, schema.check):
        with pytest.raises(StorageDamaged, match="which version"):
            look(empty)


def test_a_database_without_tables_says_what_makes_them(empty: Database) -> None:
    with pytest.raises(Exit, match="no tables yet"):
        schema.check(empty)


def test_another_programs_database_is_left_as_it_is(empty: Database) -> None:
    with empty.write() as connection:
        connection.exec_driver_sql("CREATE TABLE recipes (name TEXT)")
    for look in (schema.prepare, schema.check):
        with pytest.raises(StorageDamaged, match="other tables"):
            look(empty)
    with empty.read() as connection:
        assert inspect(connection).get_table_names() == ["recipes"]


def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "100% #ü.db"
    with contextlib.closing(Database(sqlite_url(path))) as database:
        schema.prepare(database)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM posts").fetchone() == (0,)


def test_only_a_step_to_make_loads_alembic_and_only_postgresql_its_dialect(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "store.db")
    with contextlib.closing(Database(url)) as database:
        schema.prepare(database)
    program = (
        "import sys\nfrom services.post_manager import service\n"
        "from services.post_manager.storage import database, schema\n"
        f"store = database.Database({url!r}); schema.prepare(store); schema.check(store); store.close()\n"
        "print({'alembic', 'psycopg', 'sqlalchemy.dialects.postgresql'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
