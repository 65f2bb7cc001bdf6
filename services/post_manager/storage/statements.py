"""Statements of the busiest transactions, put together once and handed to the driver as they are.

SQLAlchemy knows ON CONFLICT for one engine at a time only, and works longer on a small statement than SQLite does: even
to hand a text through takes it 20 times as long as SQLite the shortest statement. So these are texts that SQLite and
PostgreSQL understand alike, and SQLite's driver gets them directly. ``{}`` in one stands for any number of rows or
keys: one statement for all of them is one round trip, and one wait for the other threads of this process to let go.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError

AT_ONCE = 100  # rows or keys in one statement

Values = Sequence[Any]


def insert(table: Table, *columns: str) -> str:
    """Return an INSERT of rows with values for these columns; none means all, in their order."""
    names = columns or [column.name for column in table.columns]
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {{}}"  # noqa: S608 - our own names


def insert_or_add(table: Table) -> str:
    """Return an INSERT that adds what is not part of the key, when there is a row with that key, to that row."""
    key = [column.name for column in table.primary_key.columns]
    added = [f"{c.name} = {table.name}.{c.name} + excluded.{c.name}" for c in table.columns if c.name not in key]
    return f"{insert(table)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(added)}"


def insert_new(table: Table) -> str:
    """Return an INSERT of those rows whose keys are new; it returns these keys."""
    key = ", ".join(column.name for column in table.primary_key.columns)
    return f"{insert(table)} ON CONFLICT ({key}) DO NOTHING RETURNING {key}"


def run(connection: Connection, statement: str, rows: Sequence[Values]) -> None:
    """Run a statement for some rows of values, if there are any."""
    for sql, values in _filled(connection, statement, rows):
        execute(connection, sql, values)


def fetch(connection: Connection, query: str, keys: Iterable[Values], *, lock: bool = False) -> list[tuple[Any, ...]]:
    """Return the rows for some keys of one or more values each.

    ``lock``: nobody else changes these rows until the end of the transaction.
    """
    if lock and connection.dialect.name != "sqlite":  # which has one writer at a time
        query += " FOR UPDATE"
    found: list[tuple[Any, ...]] = []
    for sql, values in _filled(connection, query, list(keys)):
        found += execute(connection, sql, values)
    return found


def execute(connection: Connection, sql: str, values: Values = ()) -> Sequence[tuple[Any, ...]]:
    """Run one statement in the transaction that has begun, or is just beginning; return its rows. Raises DBAPIError."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        result = connection.exec_driver_sql(sql, tuple(values))
        return result.all() if result.returns_rows else ()
    try:
        return _ask_sqlite(driver, sql, values)
    except sqlite3.Error as error:
        raise DBAPIError.instance(None, None, error, sqlite3.Error, dialect=connection.dialect) from error


def _ask_sqlite(driver: sqlite3.Connection, sql: str, values: Values) -> list[tuple[Any, ...]]:
    return driver.execute(sql, values).fetchall()


def _filled(connection: Connection, statement: str, rows: Sequence[Values]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        sql = _with_marks(statement, len(some), len(some[0]), connection.dialect.paramstyle)
        yield sql, tuple(value for row in some for value in row)


@lru_cache(maxsize=2048)
def _with_marks(statement: str, rows: int, width: int, paramstyle: str) -> str:
    mark = "?" if paramstyle == "qmark" else "%s"
    row = f"({', '.join([mark] * width)})" if width > 1 else mark
    return statement.format(", ".join([row] * rows))
