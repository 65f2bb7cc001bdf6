"""Statements that SQLite and PostgreSQL spell alike, but SQLAlchemy only for one of them at a time: ON CONFLICT."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table, TextClause, text

Row = Mapping[str, Any]
InsertNew = Callable[[Connection, Sequence[Row]], set[tuple[Any, ...]]]


def insert_or_add(table: Table) -> TextClause:
    """Return a statement that inserts a row, or adds what is not part of the key to the row that is there."""
    names = [column.name for column in table.columns]
    key = [column.name for column in table.primary_key.columns]
    added = [f"{name} = {table.name}.{name} + excluded.{name}" for name in names if name not in key]
    values = ", ".join(f":{name}" for name in names)
    return text(
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({values}) "  # noqa: S608 - our own names
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(added)}"
    )


def insert_new(table: Table) -> InsertNew:
    """Return a function that inserts those of some rows whose keys are new, and returns these keys."""
    names = [column.name for column in table.columns]
    key = ", ".join(column.name for column in table.primary_key.columns)

    @lru_cache(maxsize=128)
    def statement(rows: int, mark: str) -> str:
        row = f"({', '.join([mark] * len(names))})"
        values = ", ".join([row] * rows)
        return (
            f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {values} "  # noqa: S608 - our own names
            f"ON CONFLICT ({key}) DO NOTHING RETURNING {key}"
        )

    def insert(connection: Connection, rows: Sequence[Row]) -> set[tuple[Any, ...]]:
        if not rows:
            return set()
        mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
        values = tuple(row[name] for row in rows for name in names)
        return {tuple(row) for row in connection.exec_driver_sql(statement(len(rows), mark), values)}

    return insert
