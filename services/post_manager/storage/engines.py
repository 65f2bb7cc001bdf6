"""The engines: how to connect to an SQLite file or to a database server, and how their transactions begin."""

import contextlib
import os
import sqlite3
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from services.post_manager.storage.statements import execute

BUSY_SECONDS = 10.0  # how long a writer waits for the others before it gives up
MODE = "stubmail_mode"  # the execution option that says what a transaction is for
READ, RELAXED, DURABLE = "read", "relaxed", "durable"
CHECKPOINT = 4_000  # pages in SQLite's journal that go to the file at once: the more, the fewer are written twice
JOURNAL = 17 * 2**20  # octets, for a little more than those, that it keeps after a request that made it larger
_CACHE_KIB = 1024  # SQLite's page cache, per connection
MOST_CONNECTIONS = 8  # of one process: they are held for one transaction, never while a client is waited for
_SERVER = "postgresql+psycopg"  # psycopg 3, whatever SQLAlchemy takes postgresql:// for


def parse_url(url: str) -> URL:
    """Parse a database's URL. Raises ValueError, whose text shows nothing of it: there may be a password in it."""
    try:
        parsed = make_url(url)
        (parsed.host or "").encode("idna")  # as the driver will, who has no error of its own for that
    except (ArgumentError, ValueError):
        text = "not a database's URL; in a user name and a password all but letters and digits is written as %XX"
        raise ValueError(text) from None
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername=_SERVER)
    if parsed.drivername not in (_SERVER, "sqlite", "sqlite+pysqlite"):
        raise ValueError(f"{parsed.drivername}:// is not known here, sqlite:// and postgresql:// are")
    return parsed


def describe(url: str) -> str:
    """Name a database for a person: its file, or its name and its server; never a password."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return str(parsed.database)
    host = parsed.host or parsed.query.get("host") or "the default server"
    where = host if isinstance(host, str) else ", ".join(host)
    return f"database {parsed.database or ''!r} at {where}{f':{parsed.port}' if parsed.port else ''}"


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{path}"


def sqlite_path(url: str) -> Path | None:
    """Return the file behind the URL of an SQLite database; None for any other database."""
    parsed = parse_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def sqlite_engine(url: str, connections: int) -> Engine:
    """Return an engine for an SQLite file, which is made when it is not there. Raises ValueError and OSError.

    ``connections``: how many are asked for, of which it may make fewer.
    """
    path = sqlite_path(url)
    if path is None or str(path) == ":memory:":
        raise ValueError("an SQLite database needs a file: several processes share it")
    # SQLite would make the file readable to others; its journal and index files take the mode of this one.
    # One that is there is not opened: closing it would drop the locks that this process has on it (fcntl(2)), and
    # another process would take the journal of a database in use for left over.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    engine = create_engine(
        url,
        pool_size=min(connections, MOST_CONNECTIONS),
        max_overflow=1,
        pool_timeout=BUSY_SECONDS,
        pool_reset_on_return=None,  # see to_pool: a rollback of nothing is work too
        pool_use_lifo=True,  # few connections have a full cache, not all of them in turn
        connect_args={"uri": True},  # so that ATTACH takes one (storage/damage.py)
    )
    _listen(engine)
    return engine


def _listen(engine: Engine) -> None:
    """Have connections to an SQLite file set up, transactions begun in their mode, and none left open."""

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not at the driver's discretion
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}").close()
        # It has an effect on a new file only; on any other it would wait for whoever writes just now.
        if connection.execute("PRAGMA page_count").fetchone() == (0,):
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL").close()
        for statement in (
            "PRAGMA journal_mode = WAL",
            f"PRAGMA wal_autocheckpoint = {CHECKPOINT}",
            f"PRAGMA journal_size_limit = {JOURNAL}",
            # Debian's SQLite would overwrite all that is deleted, by way of the journal: on a full disk, nothing could
            # be acknowledged, and it is ciphertext.
            "PRAGMA secure_delete = FAST",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
        ):
            connection.execute(statement).close()

    @event.listens_for(engine, "checkin")
    def to_pool(connection: sqlite3.Connection | None, _record: object) -> None:
        if connection is not None and connection.in_transaction:
            connection.rollback()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        mode = connection.get_execution_options().get(MODE, DURABLE)
        if mode == READ:
            execute(connection, "BEGIN")
            return
        if MODE not in connection.info:
            # Of what takes back half a statement, a file each time would be a third of all that is written. Only
            # writers: they sort nothing large.
            execute(connection, "PRAGMA temp_store = MEMORY")
        if connection.info.get(MODE) != mode:
            # In WAL mode NORMAL leaves out the fsync at the commit; a later FULL commit makes both durable.
            execute(connection, f"PRAGMA synchronous = {'FULL' if mode == DURABLE else 'NORMAL'}")
            connection.info[MODE] = mode
        execute(connection, "BEGIN IMMEDIATE")


def server_engine(url: str, connections: int) -> Engine:
    """Return an engine for a database server. Raises ValueError and ImportError."""
    from services.post_manager.storage import postgresql  # loads the driver, which SQLite does without

    return postgresql.engine(parse_url(url), connections)
