"""Fixtures for what has to hold on every database: one suite, run on SQLite and on a PostgreSQL server.

Every test run loads this: what a fixture needs is imported when it is asked for.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from services.post_manager.storage.database import Database
    from tests.support.postgresql import Cluster

ENGINES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(scope="session")
def cluster() -> Iterator["Cluster"]:
    """A PostgreSQL server for all tests of this run."""
    from tests.support.postgresql import running_cluster

    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def template(cluster: "Cluster") -> str:
    """The name of a database that has the store's tables: to copy it is cheaper than to make them."""
    name = cluster.create()
    prepared(cluster.url(name)).close()
    return name


@pytest.fixture
def postgresql_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a PostgreSQL database with the store's tables."""
    cluster: Cluster = request.getfixturevalue("cluster")
    name = cluster.create(request.getfixturevalue("template"))
    yield cluster.url(name)
    cluster.drop(name)


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of this test's own; schema.prepare makes the tables where they are not there yet."""
    if request.param == "sqlite":
        return _file(tmp_path)
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture(params=ENGINES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    if request.param == "sqlite":
        yield _file(tmp_path)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)


@pytest.fixture(params=ENGINES)
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A function that returns the URL of another database each time, with nothing in it."""
    numbers = itertools.count()
    if request.param == "sqlite":
        yield lambda: _file(tmp_path, f"{next(numbers)}.db")
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    made: list[str] = []

    def another() -> str:
        made.append(cluster.create())
        return cluster.url(made[-1])

    yield another
    for name in made:
        cluster.drop(name)


@pytest.fixture
def database(database_url: str) -> Iterator["Database"]:
    """A store's database with its tables, on each engine."""
    with contextlib.closing(prepared(database_url)) as database:
        yield database


def prepared(url: str, connections: int = 4) -> "Database":
    """Open a store's database, and make its tables when they are not there."""
    from services.post_manager.storage import schema
    from services.post_manager.storage.database import Database

    database = Database(url, connections)
    schema.prepare(database)
    return database


def _file(directory: Path, name: str = "store.db") -> str:
    from services.post_manager.storage.engines import sqlite_url

    return sqlite_url(directory / name)


_FULL = """\
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE 'could not extend file "base/1/2": No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON chunks FOR EACH ROW
    WHEN (length(NEW.data) > 100000) EXECUTE FUNCTION full_disk();
"""
_ROOM = "DROP FUNCTION full_disk CASCADE"


@contextlib.contextmanager
def full_disk(database: "Database") -> Iterator[None]:
    """No room for more than a few pages, in the way in which each engine says so."""
    from sqlalchemy import event

    limits = [80]

    def few_pages(connection: Any) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limits[-1]}")

    if database._engine.dialect.name == "sqlite":
        event.listen(database._engine, "begin", few_pages)
        yield
        limits.append(100_000)
        return
    with database.write() as connection:
        connection.exec_driver_sql(_FULL)
    yield
    with database.write() as connection:
        connection.exec_driver_sql(_ROOM)
