"""A database and its transactions, with a stated durability."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Connection, make_url

from services.post_manager.storage.engines import DURABLE, MODE, READ, RELAXED, server_engine, sqlite_engine
from services.post_manager.storage.errors import Conflict, translated
from services.post_manager.storage.group import Group

ATTEMPTS = 5  # at a transaction that meets another one

T = TypeVar("T")
Version = tuple[int, int]

_watches = itertools.count()


class Database:
    """One database, for all threads of this process; make it after a fork, never before.

    A writer commits before its ``with`` block ends: what was written is then on disk, unless ``durable`` was false.
    """

    def __init__(self, url: str, connections: int = 4) -> None:
        self._sqlite = make_url(url).get_backend_name() == "sqlite"
        self._engine = sqlite_engine(url, connections) if self._sqlite else server_engine(url, connections)
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
        with translated(), self._connect(READ) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block, or rolled back when the block raises.

        ``durable=False`` is for what may be forgotten when the machine loses power, though not when a process dies.
        Raises StorageError, or Conflict when a row was put there by another meanwhile.
        """
        mode = DURABLE if durable else RELAXED
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
        with translated(), self._connect(READ) as connection:
            yield Watch(connection, self._sqlite)

    def _connect(self, mode: str) -> Connection:
        return self._engine.connect().execution_options(**{MODE: mode})


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
