"""A database and its transactions, with a stated durability."""

import contextlib
import itertools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url

from services.post_manager.storage.errors import Conflict, translated
from services.post_manager.storage.group import Group

BUSY_SECONDS = 10.0  # how long a writer waits for the others before it gives up
ATTEMPTS = 5  # at a transaction that meets another one
_CACHE_KIB = 2048  # SQLite's page cache, per connection
_MODE = "stubmail_mode"
_READ, _RELAXED, _DURABLE = "read", "relaxed", "durable"

T = TypeVar("T")
Version = tuple[int, int]

_watches = itertools.count()


class Database:
    """One database, for all threads of this process; make it after a fork, never before.

    A writer commits before its ``with`` block ends: what was written is then on disk, unless ``durable`` was false.
    """

    def __init__(self, url: str, connections: int = 4) -> None:
        self._sqlite = make_url(url).get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(url, connections) if self._sqlite else _server_engine(url, connections)
        # SQLite takes one writer at a time, and waiting for it by polling is slow: within a process, queue up.
        self._turn: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if self._sqlite else contextlib.nullcontext()
        )
        self._group = Group(self.write, self._alone)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing. Raises StorageError."""
        with translated(), self._connect(_READ) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block, or rolled back when the block raises.

        ``durable=False`` is for what may be forgotten when the machine loses power, though not when a process dies.
        Raises StorageError, or Conflict when a row was put there by another meanwhile.
        """
        mode = _DURABLE if durable else _RELAXED
        with translated(), self._turn, self._connect(mode) as connection, connection.begin():
            yield connection

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a durable transaction, again when another transaction got into its way.

        What several threads have to write at the same moment shares one transaction where the database does not see
        to that itself. Raises StorageError.
        """
        return self._group.run(work) if self._sqlite else self._alone(work)

    def _alone(self, work: Callable[[Connection], T]) -> T:
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(Conflict), self.write() as connection:
                return work(connection)
        with self.write() as connection:
            return work(connection)

    @contextlib.contextmanager
    def watch(self) -> Iterator["Watch"]:
        """One connection kept for many small reads, with a cheap way to see whether anything changed meanwhile."""
        with translated(), self._connect(_READ) as connection:
            yield Watch(connection, self._sqlite)

    def _connect(self, mode: str) -> Connection:
        return self._engine.connect().execution_options(**{_MODE: mode})


class Watch:
    """A connection for one thread that only reads, again and again."""

    def __init__(self, connection: Connection, sqlite: bool) -> None:
        self._connection = connection
        self._sqlite = sqlite
        self._number = next(_watches)

    @contextlib.contextmanager
    def look(self) -> Iterator[tuple[Connection, Version | None]]:
        """One state of the database, and its version: the same as long as nobody changes anything.

        The version is None where the database cannot tell. Raises StorageError.
        """
        with translated(), self._connection.begin():
            version = None
            if self._sqlite:  # it counts what other connections do, from wherever this one began to count
                version = self._number, self._connection.exec_driver_sql("PRAGMA data_version").scalar_one()
            yield self._connection, version


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{path}"


def sqlite_path(url: str) -> Path | None:
    """Return the file behind the URL of an SQLite database; None for any other database."""
    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _sqlite_engine(url: str, connections: int) -> Engine:
    path = sqlite_path(url)
    if path is None or str(path) == ":memory:":
        raise ValueError("an SQLite database needs a file: several processes share it")
    # SQLite would make the file readable to others; its journal and index files take the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=connections,
        pool_timeout=BUSY_SECONDS,
        pool_use_lifo=True,  # few connections have a full cache, not all of them in turn
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not at the driver's discretion
        for statement in (
            f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}",
            "PRAGMA auto_vacuum = INCREMENTAL",  # has an effect on a new file only
            "PRAGMA journal_mode = WAL",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
        ):
            connection.execute(statement).close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        mode = connection.get_execution_options().get(_MODE, _DURABLE)
        if mode == _READ:
            connection.exec_driver_sql("BEGIN")
            return
        if connection.info.get(_MODE) != mode:
            # In WAL mode NORMAL leaves out the fsync at the commit; a later FULL commit makes both durable.
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if mode == _DURABLE else 'NORMAL'}")
            connection.info[_MODE] = mode
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _server_engine(url: str, connections: int) -> Engine:
    engine = create_engine(
        url, pool_size=connections, max_overflow=connections, pool_timeout=BUSY_SECONDS, pool_pre_ping=True
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_MODE) == _RELAXED:
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    return engine
