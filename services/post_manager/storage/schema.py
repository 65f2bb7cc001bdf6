"""The tables, their version, and who makes a database of an older version one of this."""

import os
import re
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    inspect,
    select,
    text,
)

from services.post_manager.storage.errors import StorageDamaged, StorageError
from stubmail.errors import Exit

if TYPE_CHECKING:
    from services.post_manager.storage.database import Database

VERSION = "0004"  # what the last step in storage/migrations leads to, known without loading Alembic

# States of a post (protocol.md §5.6) as they are stored; the names are the protocol's.
WAITING, FETCHED, EXPIRED, WITHDRAWN = range(4)
STATE_NAMES = ("waiting", "fetched", "expired", "withdrawn")

_Key = BigInteger().with_variant(Integer(), "sqlite")  # SQLite makes only an INTEGER key the row's own number
_Fingerprint = String(64)
_Address = String(254)

metadata = MetaData()

# One row for each post ever stored, kept as a tombstone when it no longer waits: storing an id again must change
# nothing (protocol.md §5.2). Then ``head`` and ``content`` are null. Times are Unix time, sizes octets.
posts = Table(
    "posts",
    metadata,
    Column("serial", _Key, primary_key=True, autoincrement=False),
    Column("id", LargeBinary(16), nullable=False, unique=True),
    Column("state", SmallInteger, nullable=False),
    Column("sender", _Fingerprint, nullable=False),
    Column("sender_address", _Address, nullable=False),
    Column("recipient", _Fingerprint, nullable=False),
    Column("address", _Address, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("due", BigInteger, nullable=False),  # when time alone changes it: it expires, or its tombstone goes
    Column("content", BigInteger),
    Column("head", LargeBinary),
    Index("posts_by_recipient", "recipient", "state", "serial", "sender"),
    Index("posts_by_sender", "sender", "serial"),
    Index("posts_by_due", "due"),
)
ENDED = text("state > 1")  # expired or withdrawn; written without parameters, for engines to see that the index serves
# What senders are to be told of. Partial: storing and fetching, which is nearly all that happens, pass it by. (The same
# for PostgreSQL is said in its module: SQLite's stores do without that dialect, which takes long to load.)
posts_by_end = Index("posts_by_end", posts.c.sender, posts.c.changed, posts.c.serial, sqlite_where=ENDED)

# The bodies of posts: each is stored once for all posts of its sender that share it, cut into chunks.
contents = Table(
    "contents",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("sender", _Fingerprint, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("refs", BigInteger, nullable=False),  # how many waiting posts use it; at 0 it is deleted
    UniqueConstraint("sender", "digest"),
)
chunks = Table(
    "chunks",
    metadata,
    Column("content", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

# Sums over waiting posts, so that a check costs the same however many there are.
tallies = Table(
    "tallies",
    metadata,
    Column("recipient", _Fingerprint, primary_key=True),
    Column("sender", _Fingerprint, primary_key=True),
    Column("address", _Address, primary_key=True),  # the sender's
    Column("posts", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
usage = Table(
    "usage",
    metadata,
    Column("sender", _Fingerprint, primary_key=True),
    Column("posts", BigInteger, nullable=False),
    Column("octets", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

counters = Table("counters", metadata, Column("name", String(16), primary_key=True), Column("value", BigInteger))
chores = Table("chores", metadata, Column("name", String(16), primary_key=True), Column("due", BigInteger))

sessions = Table(
    "sessions",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("secret", LargeBinary(32), nullable=False),
    Column("fingerprint", _Fingerprint, nullable=False),
    Column("address", _Address, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Index("sessions_by_fingerprint", "fingerprint", "expires"),
    Index("sessions_by_expiry", "expires"),
    sqlite_with_rowid=False,
)
cookies = Table(
    "cookies",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("secret", LargeBinary(32), nullable=False),
    Column("fingerprint", _Fingerprint, nullable=False),
    Column("used", BigInteger, nullable=False),
    Index("cookies_by_fingerprint", "fingerprint", "used"),
    Index("cookies_by_use", "used"),
    sqlite_with_rowid=False,
)
nonces = Table(
    "nonces",
    metadata,
    Column("client", _Fingerprint, primary_key=True),  # a session's id, or the fingerprint of who opens one
    Column("nonce", LargeBinary(16), primary_key=True),
    Column("time", BigInteger, nullable=False),
    Index("nonces_by_time", "time"),  # with row numbers: it takes what comes at its end, as the table does
)

# What all processes and replicas of a store know, and nobody else; see storage/keys.py.
keys = Table(
    "keys",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("value", LargeBinary(32), nullable=False),
)

SERIAL = "serial"
CHORES = ("posts", "tombstones", "sessions", "cookies", "nonces")

# The version's own table is Alembic's, and no part of ``metadata``; a first one had a table of another form.
_version_table = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
_first_table = Table("schema_version", MetaData(), Column("version", Integer, nullable=False))
_FIND_VERSION = select(_version_table.c.version_num)
_FORM = re.compile(r"[0-9]{4}")
# One process makes a step, which may take long; the others wait. The lock's number is nobody else's.
_TAKE_TURN = (
    "SET LOCAL statement_timeout TO 0; SET LOCAL lock_timeout TO 0; SELECT pg_advisory_xact_lock(126942450221057)"
)


def prepare(database: "Database") -> None:
    """Make the tables in an empty database, or bring older ones up to date; each step in one transaction.

    Raises StorageDamaged when the database is something else's, Exit when a newer version of this program wrote it.
    """
    with database.read() as connection:
        version, adopted = _version(connection)
    while version != VERSION or not adopted:
        with database.write() as connection:
            if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
                connection.exec_driver_sql(_TAKE_TURN)
            _step(connection)
            version, adopted = _version(connection)


def check(database: "Database") -> None:
    """See that the tables are there, in this version, and can be read. Raises StorageError or Exit."""
    try:
        with database.read() as connection:
            version = connection.execute(_FIND_VERSION).scalar_one_or_none()
    except StorageDamaged:
        raise
    except StorageError:  # the version is not where it should be: find out what is there instead
        with database.read() as connection:
            version, _ = _version(connection)
    if version is None:
        raise Exit(os.EX_CONFIG, "the database has no tables yet: post_manager makes them when it starts")
    _refuse_newer(version)
    if version != VERSION:
        what = f"the database has version {version} of its tables, this program needs {VERSION}"
        raise Exit(os.EX_CONFIG, f"{what}: post_manager brings them up to date when it starts")


def version_of(connection: Connection) -> str | None:
    """Return the version of the tables, None when there are none. Raises StorageDamaged for another program's."""
    return _version(connection)[0]


def _step(connection: Connection) -> None:
    """Make one step towards VERSION; none when another process was faster."""
    version, adopted = _version(connection)
    if version is not None:
        _refuse_newer(version)
    if version == VERSION and adopted:
        return
    from services.post_manager.storage import migrations  # takes a while, and is hardly ever needed

    if version is not None and not adopted:
        migrations.adopt(connection, version)
        _first_table.drop(connection)
    else:
        migrations.upgrade(connection)


def _version(connection: Connection) -> tuple[str | None, bool]:
    """Return the version of the tables, None when there are none, and whether it stands where it belongs."""
    names = inspect(connection).get_table_names()
    if not names:
        return None, True
    if _version_table.name in names:
        return connection.execute(_FIND_VERSION).scalar_one_or_none() or "", True
    if _first_table.name in names:
        number = connection.execute(select(_first_table.c.version)).scalar_one_or_none() or 0
        return f"{number:04}", False
    raise StorageDamaged("the database holds other tables than those of post_manager")


def _refuse_newer(version: str) -> None:
    if not _FORM.fullmatch(version) or version == "0000":
        raise StorageDamaged("the database does not say which version it has")
    if version > VERSION:
        what = f"the database has version {version} of its tables, this program knows those up to {VERSION}"
        raise Exit(os.EX_CONFIG, f"{what}: a newer one wrote it")
