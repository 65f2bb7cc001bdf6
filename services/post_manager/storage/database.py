"""A database and its transactions, with a stated durability."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from sqlalchemy import Connection

from services.post_manager.storage.engines import (
    DURABLE,
    MODE,
    READ,
    RELAXED,
    parse_url,
    server_engine,
    sqlite_engine,
    sqlite_path,
)
from services.post_manager.storage.errors import Conflict, translated
from services.post_manager.storage.group import Do, Group
from services.post_manager.storage.turn import Turn

ATTEMPTS = 5  # at a transaction that meets another one

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[Connection], T]


class Database:
    """One database, for all threads of this process; make it after a fork, never before.

    A writer commits before its ``with`` block ends: what was written is then on disk, unless ``durable`` was false.
    """

    def __init__(self, url: str, connections: int = 4) -> None:
        self._sqlite = parse_url(url).get_backend_name() == "sqlite"
        self._engine = sqlite_engine(url, connections) if self._sqlite else server_engine(url, connections)
        path = sqlite_path(url)
        self._turn = Turn(path) if path is not None else None
        self._groups = {
            durable: Group(partial(self.write, durable=durable), partial(self._alone, durable))
            for durable in (True, False)
        }

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        if self._turn is not None:
            self._turn.close()

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
        turn = self._turn or contextlib.nullcontext()
        with translated(), turn, self._connect(mode) as connection, connection.begin():
            yield connection

    def transact(self, work: Work[T]) -> T:
        """Run ``work`` in a durable transaction, again when another transaction got into its way.

        What several threads have to write at the same moment shares one transaction where the database does not see
        to that itself. Raises StorageError.
        """
        return self.batch(_each, work) if self._sqlite else cast(T, self._alone(True, _each, work))

    def batch(self, do: Do[T, R], item: T, *, durable: bool = True) -> R:
        """Have ``do`` do this item, and with it those that other threads bring at the same moment, in one transaction.

        ``do`` gets the items and returns a result for each. It may be run more than once; only the last time counts.
        Raises StorageError.
        """
        return self._groups[durable].run(do, item)

    def _alone(self, durable: bool, do: Do[T, R], item: T) -> R:
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(Conflict), self.write(durable=durable) as connection:
                return do(connection, [item])[0]
        with self.write(durable=durable) as connection:
            return do(connection, [item])[0]

    @contextlib.contextmanager
    def watch(self) -> Iterator[Connection]:
        """One connection kept for the many small reads of a ``Watch``. Raises StorageError."""
        options = {MODE: READ} if self._sqlite else {"isolation_level": "AUTOCOMMIT"}
        with translated(), self._engine.connect() as connection:
            yield connection.execution_options(**options)

    def _connect(self, mode: str) -> Connection:
        return self._engine.connect().execution_options(**{MODE: mode})


def _each(connection: Connection, works: Sequence[Work[Any]]) -> list[Any]:
    return [work(connection) for work in works]
