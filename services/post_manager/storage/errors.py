"""The few errors of a database that the rest has to tell apart."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from stubmail.errors import TemporaryError

_DISK_FULL = "53100"
_DAMAGED = ("XX001", "XX002")  # data_corrupted, index_corrupted
_ROLLED_BACK = "40"  # the class of serialization failures and deadlocks


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
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
            raise StorageError(f"the database: {error.orig}") from error  # a mark refuses it (storage/moving.py)
        raise Conflict from error
    except DBAPIError as error:
        meant = _translate(error)
        if isinstance(meant, StorageDamaged):
            on_damage(meant)
        raise meant from error
    except SQLAlchemyError as error:
        raise StorageError(f"the database: {error}") from error


def _translate(error: DBAPIError) -> Exception:
    text = f"the database: {_words(error.orig)}"
    code = getattr(error.orig, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None  # the upper octets only refine
    state = str(getattr(error.orig, "sqlstate", None) or "")  # PostgreSQL's, as its manual's appendix A lists them
    if primary == sqlite3.SQLITE_FULL or state == _DISK_FULL:
        return StorageFull(text)
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or state in _DAMAGED:
        return StorageDamaged(text)
    if primary == sqlite3.SQLITE_READONLY:
        return StorageReadOnly(text)
    if state.startswith(_ROLLED_BACK):
        return Conflict()
    return StorageError(text)


def _words(error: object) -> str:
    """What the database said, without the details, which quote rows: there are secrets in them."""
    diagnosis = getattr(error, "diag", None)  # psycopg's
    return getattr(diagnosis, "message_primary", None) or str(error)
