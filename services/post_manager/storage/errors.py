"""The few errors of a database that the rest has to tell apart."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from stubmail.errors import TemporaryError


class StorageError(TemporaryError):
    """The database cannot do what was asked; the text is for the log. Nothing was changed."""

    def __init__(self, text: str, code: str = "4.3.0") -> None:
        super().__init__(code, text)


class StorageFull(StorageError):
    """There is no room left on the disk; deleting or waiting helps."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "4.3.1")


class StorageDamaged(StorageError):
    """The database is not one, or its pages contradict each other: only a restored backup helps."""


class StorageReadOnly(StorageError):
    """The database was found damaged: nothing is written to it any more, what can be read is."""


class Conflict(Exception):
    """Another transaction was faster; the same one, made anew, succeeds."""


@contextlib.contextmanager
def translated(on_damage: Callable[[StorageDamaged], None] = lambda error: None) -> Iterator[None]:
    """Turn the database's many errors into the few that callers tell apart; ``on_damage`` is told of that first."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict from error
    except DBAPIError as error:
        meant = _translate(error)
        if isinstance(meant, StorageDamaged):
            on_damage(meant)
        raise meant from error
    except SQLAlchemyError as error:
        raise StorageError(f"the database: {error}") from error


def _translate(error: DBAPIError) -> Exception:
    text = f"the database: {error.orig}"
    code = getattr(error.orig, "sqlite_errorcode", None)
    state = str(getattr(error.orig, "sqlstate", None) or "")
    primary = code & 0xFF if isinstance(code, int) else None  # the upper octets only refine
    if primary == sqlite3.SQLITE_FULL or state.startswith("53100"):  # disk_full
        return StorageFull(text)
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or state.startswith("XX00"):  # data_corrupted
        return StorageDamaged(text)
    if primary == sqlite3.SQLITE_READONLY:
        return StorageReadOnly(text)
    if state.startswith("40"):  # transaction rollback: serialization failure, deadlock
        return Conflict()
    return StorageError(text)
