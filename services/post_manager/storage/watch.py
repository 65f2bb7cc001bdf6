"""Small reads, again and again, on one connection: cookies, what waits for them, and whether anything has changed.

What a check needs is one indexed read (protocol.md §6), here without SQLAlchemy's share of it, which on SQLite would
be the larger half.
"""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, literal_column, select

from services.post_manager.storage.errors import StorageError, translated
from services.post_manager.storage.schema import WAITING, cookies, posts, tallies
from services.post_manager.storage.sessions import COOKIE_SECONDS

Version = tuple[int, int | str]

_watches = itertools.count()


@dataclass(frozen=True, slots=True)
class Known:
    """A cookie: its key (32 octets), when it was last used, and what waits: posts, and the largest serial or 0."""

    secret: bytes
    used: int
    posts: int
    serial: int


def _query(condition: ColumnElement[bool]) -> Select[Any]:
    zero: ColumnElement[int] = literal_column("0")
    number = select(func.coalesce(func.sum(tallies.c.posts), zero)).where(tallies.c.recipient == cookies.c.fingerprint)
    largest = select(func.coalesce(func.max(posts.c.serial), zero)).where(
        posts.c.recipient == cookies.c.fingerprint, posts.c.state == literal_column(str(WAITING))
    )
    columns = cookies.c.id, cookies.c.secret, cookies.c.used, number.scalar_subquery(), largest.scalar_subquery()
    return select(*columns).where(condition)


_ONE = _query(cookies.c.id == bindparam("id"))
_MANY = _query(cookies.c.id.in_(bindparam("ids", expanding=True)))


class Watch:
    """Reads on a connection of its own, which nobody else uses meanwhile (``Database.watch``); for one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._number = next(_watches)
        driver = connection.connection.driver_connection
        self._file = driver if isinstance(driver, sqlite3.Connection) else None
        self._one = str(_ONE.compile(connection))

    @contextlib.contextmanager
    def look(self) -> Iterator["State"]:
        """The database as it is now. Raises StorageError."""
        if self._file is None:
            with translated():
                # The snapshot says which transactions can be seen: when it is the same, so is everything that is
                # read. It comes before the reads: what those see is as new as it says, or newer.
                version = str(self._connection.exec_driver_sql("SELECT pg_current_snapshot()::text").scalar_one())
                yield State((self._number, version), self._read_many)
            return
        try:
            self._file.execute("BEGIN")
            try:
                # It counts what other connections do, from wherever this one began to count.
                (number,) = self._file.execute("PRAGMA data_version").fetchone()
                yield State((self._number, number), self._read_each)
            finally:
                self._file.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(f"the database: {error}") from error

    def _read_many(self, ids: Sequence[bytes]) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._connection.execute(_MANY, {"ids": ids})]

    def _read_each(self, ids: Sequence[bytes]) -> list[tuple[Any, ...]]:
        assert self._file is not None
        found = (self._file.execute(self._one, (cookie_id,)).fetchone() for cookie_id in ids)
        return [row for row in found if row is not None]


class State:
    """One state of the database; ``version`` is the same as long as nobody changes anything."""

    def __init__(self, version: Version, read: Any) -> None:
        self.version = version
        self._read = read

    def cookies(self, ids: Sequence[bytes], now: int) -> dict[bytes, Known]:
        """Return those of these cookies that are there and were used in the last 90 days, by id."""
        return {
            bytes(row[0]): Known(bytes(row[1]), row[2], int(row[3]), int(row[4]))
            for row in self._read(ids)
            if row[2] > now - COOKIE_SECONDS
        }
