"""Small reads, again and again, on one connection: cookies, what waits for them, and whether anything has changed.

What a check needs is one indexed read (protocol.md §6), here without SQLAlchemy's share of it, which on SQLite would
be the larger half.
"""

import itertools
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, literal_column, select

from services.post_manager.storage.errors import StorageError, translated
from services.post_manager.storage.schema import WAITING, cookies, posts, tallies
from services.post_manager.storage.sessions import COOKIE_SECONDS

Version = tuple[int, int | str]
Row = tuple[Any, ...]

_watches = itertools.count()


class Known(NamedTuple):
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

    def look(self) -> "State":
        """Return the database as it is now. Raises StorageError."""
        # The version comes before the reads: what those see is as new as it says, or newer.
        if self._file is None:
            with translated():
                # A snapshot says which transactions can be seen: as long as it is the same, so is everything else.
                text = str(self._connection.exec_driver_sql("SELECT pg_current_snapshot()::text").scalar_one())
            return State((self._number, text), self._read_many)
        try:
            # It counts what other connections do, from wherever this one began to count.
            (number,) = self._file.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            raise _unusable(error) from error
        return State((self._number, number), self._read_each)

    def _read_many(self, ids: Sequence[bytes]) -> list[Row]:
        with translated():
            return [tuple(row) for row in self._connection.execute(_MANY, {"ids": ids})]

    def _read_each(self, ids: Sequence[bytes]) -> list[Row]:
        assert self._file is not None
        try:
            self._file.execute("BEGIN")  # of many, each by itself would take its locks
            try:
                found = [self._file.execute(self._one, (cookie_id,)).fetchone() for cookie_id in ids]
            finally:
                self._file.execute("COMMIT")
        except sqlite3.Error as error:
            raise _unusable(error) from error
        return [row for row in found if row is not None]


def _unusable(error: sqlite3.Error) -> StorageError:
    return StorageError(f"the database: {error}")


class State:
    """The database at one moment; ``version`` is the same as long as nobody changes anything."""

    __slots__ = ("_read", "version")

    def __init__(self, version: Version, read: Callable[[Sequence[bytes]], list[Row]]) -> None:
        self.version = version
        self._read = read

    def cookies(self, ids: Sequence[bytes], now: int) -> dict[bytes, Known]:
        """Return those of these cookies that are there and were used in the last 90 days, by id.

        As they were at that moment, or later. Raises StorageError.
        """
        return {
            bytes(row[0]): Known(bytes(row[1]), row[2], int(row[3]), int(row[4]))
            for row in self._read(ids)
            if row[2] > now - COOKIE_SECONDS
        }
