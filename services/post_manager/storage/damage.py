"""A damaged SQLite file: found out, remembered beside it, and from then on read as far as it goes, never written.

Requests need sessions, cookies and nonces to be written even then. These go to a database beside the damaged one,
which that is attached to: what the first one does not hold, SQLite looks for in the other.
"""

import contextlib
import logging
import os
import sqlite3
import time
import urllib.parse
from functools import lru_cache
from pathlib import Path

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError

from services.post_manager.storage import schema
from services.post_manager.storage.engines import BUSY_SECONDS, sqlite_engine, sqlite_url
from stubmail import log
from stubmail.errors import one_line
from stubmail.spool import remove_durably, sync_directory, write_durably

SIDE_TABLES = (schema.sessions, schema.cookies, schema.nonces, schema.chores)
WRITE_AHEAD = ("-wal", "-shm")  # the files that SQLite keeps beside a database

_LENIENT = "PRAGMA writable_schema = ON"  # a file is read that is shorter than it says; nothing is written to it

CURE = "post_manager verify names the damage, post_manager restore FILE sets the file aside and puts a backup in place"

_log = logging.getLogger("post_manager")


@lru_cache(maxsize=16)
def marker(path: Path) -> Path:
    """Where it is remembered that a database file is damaged."""
    return path.with_name(path.name + ".damaged")


def side(path: Path) -> Path:
    """The database that is written while another one is damaged."""
    return path.with_name(path.name + ".side")


def is_marked(path: Path) -> bool:
    """Whether a database file was found damaged."""
    return os.access(marker(path), os.F_OK)


def told(path: Path) -> str:
    """Return one sentence about a file that was found damaged, which CURE goes behind; "" when it was not."""
    try:
        why = marker(path).read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return f"{_what(path)} ({one_line(why)})"


def mark(path: Path, why: str) -> None:
    """Remember, durably, that a database file is damaged; the first to find out says so in the log."""
    if is_marked(path):
        return
    log.event(_log, "damaged", level=logging.CRITICAL, error=why, what=_what(path), cure=CURE)
    remove_side(path)  # of an earlier time
    try:
        write_durably(marker(path), one_line(why).encode() + b"\n")
    except OSError as error:
        log.event(_log, "failed", level=logging.ERROR, error=error, what="the damage cannot be remembered")


def _what(path: Path) -> str:
    return f"{path} is damaged: what can be read of it is served, nothing is written to it"


def clear(path: Path) -> None:
    """Forget that a database file was damaged, durably: from then on all processes write to it again."""
    remove_durably(marker(path))


def set_aside(path: Path, now: int) -> Path | None:
    """Rename a damaged file, durably, with what SQLite keeps beside it; return its new name, None when it is not there.

    The files beside it go first: a journal left alone would be taken for that of whatever comes in its place.
    """
    aside = _aside(path, now)
    found = path.exists()
    for suffix in (*WRITE_AHEAD, ""):
        to = aside.with_name(aside.name + suffix)
        with contextlib.suppress(FileNotFoundError):
            # What an interrupted attempt has set aside is kept; a reader may have made new, empty files since.
            path.with_name(path.name + suffix).rename(to.with_name(to.name + "-late") if to.exists() else to)
    sync_directory(path.parent)
    return aside if found else None


def _aside(path: Path, now: int) -> Path:
    """A name that nothing has, or one that only the files beside a database have got so far."""
    begun = (file.with_name(file.name.removesuffix("-wal")) for file in path.parent.glob(f"{path.name}.damaged-*-wal"))
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    names = (path.with_name(f"{path.name}.damaged-{stamp}{more}") for more in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(name for name in (*begun, *names) if not name.exists())


def remove_side(path: Path) -> None:
    """Remove what was written beside a damaged database, once nobody needs it."""
    for suffix in ("", *WRITE_AHEAD):
        path.with_name(side(path).name + suffix).unlink(missing_ok=True)


def probe(path: Path) -> str:
    """Look at a database file cheaply, without writing: its header, its tables, both ends of each index.

    Return what is wrong with it, "" for nothing; a file that is not there, or empty, is one to be made.
    """
    if not path.exists() or path.stat().st_size == 0:
        return ""
    try:
        with contextlib.closing(sqlite3.connect(_uri(path), uri=True, timeout=BUSY_SECONDS)) as connection:
            return _probe(connection)
    except sqlite3.DatabaseError as error:
        if (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return str(error)
        return ""  # busy, or not to be opened: that is found out, and said, when it is used


def _probe(connection: sqlite3.Connection) -> str:
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    for table in schema.metadata.sorted_tables:
        whole = [index for index in table.indexes if index.dialect_options["sqlite"]["where"] is None]
        orders = [[column.name for column in table.primary_key], *([c.name for c in i.columns] for i in whole)]
        for columns in orders if table.name in names else []:
            for direction in ("ASC", "DESC"):
                order = ", ".join(f"{name} {direction}" for name in columns) or "1"
                connection.execute(f"SELECT * FROM {table.name} ORDER BY {order} LIMIT 1").fetchall()  # noqa: S608 - ours
    return ""


def rescue_engine(path: Path, connections: int) -> Engine:
    """Return an engine that reads a damaged file and writes sessions, cookies, nonces and chores beside it."""
    engine = sqlite_engine(sqlite_url(side(path)), connections)
    with engine.begin() as connection:
        _make_side(connection)
    engine.dispose()

    @event.listens_for(engine, "connect")
    def attach(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(_LENIENT).close()
        connection.execute("ATTACH ? AS damaged", (_uri(path),)).close()

    with contextlib.suppress(DBAPIError), engine.connect() as connection:
        # As long as there is a reader, no writer that closes the file takes it for its business to tidy it up.
        connection.exec_driver_sql("SELECT count(*) FROM damaged.sqlite_master")
    return engine


def _make_side(connection: Connection) -> None:
    if inspect(connection).get_table_names():
        return
    schema.metadata.create_all(connection, tables=SIDE_TABLES)
    connection.execute(schema.chores.insert(), [{"name": name, "due": 0} for name in schema.CHORES])


def reading_engine(path: Path) -> Engine:
    """Return an engine that reads an SQLite file and cannot write it."""
    engine = create_engine("sqlite://", creator=lambda: _open(path), poolclass=QueuePool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(_uri(path), uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
    connection.execute(_LENIENT).close()
    connection.isolation_level = None  # transactions begin above, not at the driver's discretion
    return connection


def _uri(path: Path) -> str:
    return f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro"
