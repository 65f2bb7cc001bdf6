"""Statements of the busiest transactions, put together once and handed to the driver as they are.

SQLAlchemy knows ON CONFLICT for one engine at a time only, and works longer on a small statement than SQLite does. So
these are texts that SQLite and PostgreSQL understand alike; a question mark stands for a value.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Table

Values = Sequence[Any]


def insert(table: Table, *columns: str) -> str:
    """Return an INSERT of a row with values for these columns; none means all, in their order."""
    names = columns or [column.name for column in table.columns]
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {_marks(len(names))}"  # noqa: S608 - our own names


def insert_or_add(table: Table) -> str:
    """Return an INSERT that adds what is not part of the key, when there is a row with that key, to that row."""
    key = [column.name for column in table.primary_key.columns]
    added = [f"{c.name} = {table.name}.{c.name} + excluded.{c.name}" for c in table.columns if c.name not in key]
    return f"{insert(table)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(added)}"


def insert_new(connection: Connection, table: Table, rows: Sequence[Values]) -> set[tuple[Any, ...]]:
    """Insert those of some whole rows whose keys are new; return these keys."""
    return {tuple(row) for row in fetch(connection, _insert_new(table), rows)}


@lru_cache
def _insert_new(table: Table) -> str:
    names = ", ".join(column.name for column in table.columns)
    key = ", ".join(column.name for column in table.primary_key.columns)
    return f"INSERT INTO {table.name} ({names}) VALUES {{}} ON CONFLICT ({key}) DO NOTHING RETURNING {key}"  # noqa: S608


def fetch(
    connection: Connection, query: str, keys: Iterable[Values], *, lock: bool = False
) -> Sequence[tuple[Any, ...]]:
    """Return the rows for some keys of one or more values: ``{}`` in the query stands for all of them.

    ``lock``: nobody else changes these rows until the end of the transaction.
    """
    keys = list(keys)
    if not keys:
        return ()
    if lock and connection.dialect.name != "sqlite":  # which has one writer at a time
        query += " FOR UPDATE"
    sql = _filled(query, len(keys), len(keys[0]), connection.dialect.paramstyle)
    return connection.exec_driver_sql(sql, tuple(value for key in keys for value in key)).all()


def run(connection: Connection, statement: str, rows: Sequence[Values]) -> CursorResult[Any] | None:
    """Run a statement once for each row of values; not at all when there is none."""
    if not rows:
        return None
    return connection.exec_driver_sql(_filled(statement, 0, 0, connection.dialect.paramstyle), list(rows))


@lru_cache(maxsize=1024)
def _filled(query: str, keys: int, width: int, paramstyle: str) -> str:
    if keys:
        query = query.format(", ".join([_marks(width) if width > 1 else "?"] * keys))
    return query if paramstyle == "qmark" else query.replace("?", "%s")


def _marks(number: int) -> str:
    return f"({', '.join('?' * number)})"
