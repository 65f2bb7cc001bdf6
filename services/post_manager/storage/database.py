"""A database and its transactions, with a stated durability."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, Pool

from services.post_manager.storage import damage, hold
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
from services.post_manager.storage.errors import (
    Conflict,
    StorageDamaged,
    StorageError,
    StorageReadOnly,
    translated,
)
from services.post_manager.storage.group import Do, Group, Job
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
        self._url = url
        self._connections = connections
        self._path = sqlite_path(url)
        self._switching = threading.Lock()
        self._old: list[Pool] = []
        with translated():
            self._engine, self.read_only = self._open()
        self._turn = Turn(self._path) if self._path is not None else None
        self._writer: Connection | None = None  # of an SQLite file: for whoever's turn it is
        self._groups = {
            durable: Group(partial(self.write, durable=durable), partial(self._alone, durable))
            for durable in (True, False)
        }

    def close(self) -> None:
        """Close every connection, when a transaction that writes to an SQLite file is through."""
        if self.outdated:
            self.reopen()  # the last writer that closes an SQLite file writes to it
        with self._turn.closed() if self._turn is not None else contextlib.nullcontext():
            self._drop_writer()
        for pool in self._old:
            pool.dispose()
        self._engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing. Raises StorageError."""
        with translated(self._found_damaged), self._connect(READ) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block, or rolled back when the block raises.

        ``durable=False`` is for what may be forgotten when the machine loses power, though not when a process dies.
        Raises StorageError, or Conflict when a row was put there by another meanwhile.
        """
        if self._path is not None and hold.is_held(self._path):
            raise StorageError("the database is being moved elsewhere")
        with self._write(DURABLE if durable else RELAXED) as connection:
            yield connection

    @contextlib.contextmanager
    def hold(self) -> Iterator[Connection]:
        """A transaction like those of ``write`` that may last: of an SQLite file, others are refused at once meanwhile.

        Raises StorageError, also when another process does the same.
        """
        with contextlib.ExitStack() as stack:
            if self._path is not None:
                try:
                    stack.enter_context(hold.holding(self._path))
                except BlockingIOError:
                    raise StorageError("the database is being moved elsewhere") from None
            yield stack.enter_context(self._write(DURABLE))

    @contextlib.contextmanager
    def _write(self, mode: str) -> Iterator[Connection]:
        if self._turn is None:
            with translated(self._found_damaged), self._connect(mode) as connection, connection.begin():
                yield connection
            return
        with translated(self._found_damaged), self._turn:
            try:
                with (connection := self._kept(mode)).begin():
                    yield connection
            except BaseException:
                self._drop_writer()  # whatever state it is in
                raise

    def _kept(self, mode: str) -> Connection:
        """Return the connection of whose turn it is: to have one lent takes longer than to begin and commit."""
        engine = self._current_engine()
        if self._writer is None or self._writer.engine is not engine:
            self._drop_writer()
            self._writer = engine.connect()
        if self._writer.get_execution_options().get(MODE) != mode:
            self._writer.execution_options(**{MODE: mode})
        return self._writer

    def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

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

    def begin(self, do: Do[T, R], item: T) -> Job[T, R]:
        """As ``batch``, for who can let others bring theirs before he needs the result: Job.result returns it."""
        return self._groups[True].begin(do, item)

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
        with translated(self._found_damaged), self._current_engine().connect() as connection:
            yield connection.execution_options(**options)

    def require_writable(self) -> None:
        """Raise StorageReadOnly when posts cannot be written because the database was found damaged."""
        if self.read_only:
            raise StorageReadOnly("the database is damaged, and only read")

    @property
    def outdated(self) -> bool:
        """Whether the database was found damaged, or was cured, since it was opened."""
        return self._path is not None and damage.is_marked(self._path) != self.read_only

    def reopen(self) -> None:
        """Look again whether the database was found damaged, or is whole again."""
        with self._switching:
            old = self._engine
            self._engine, self.read_only = self._open()
            self._old.append(old.pool)  # connections in use go back to it
            old.dispose()

    def _open(self) -> tuple[Engine, bool]:
        if not self._sqlite:
            return server_engine(self._url, self._connections), False
        if self._path is not None and damage.is_marked(self._path):
            return damage.rescue_engine(self._path, self._connections), True
        return sqlite_engine(self._url, self._connections), False

    def _found_damaged(self, error: StorageDamaged) -> None:
        if self._path is not None and not self.read_only:
            damage.mark(self._path, error.text)

    def _current_engine(self) -> Engine:
        # Whoever finds the damage, all processes write no more from then on; and all know when it is cured.
        if self.outdated:
            self.reopen()
        return self._engine

    def _connect(self, mode: str) -> Connection:
        return self._current_engine().connect().execution_options(**{MODE: mode})


def _each(connection: Connection, works: Sequence[Work[Any]]) -> list[Any]:
    return [work(connection) for work in works]
