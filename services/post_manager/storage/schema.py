"""The tables, their version, and how a database of an older version becomes one of this."""

import os
from collections.abc import Callable, Mapping

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
    insert,
    inspect,
    select,
    update,
)

from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import Conflict, StorageDamaged
from stubmail.errors import Exit

VERSION = 2

# States of a post (protocol.md §5.6) as they are stored; the names are the protocol's.
WAITING, FETCHED, EXPIRED, WITHDRAWN = range(4)
STATE_NAMES = ("waiting", "fetched", "expired", "withdrawn")

_Key = BigInteger().with_variant(Integer(), "sqlite")  # SQLite makes only an INTEGER key the row's own number
_Fingerprint = String(64)
_Address = String(254)

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

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
    Index("nonces_by_time", "time"),
    sqlite_with_rowid=False,
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

# From each older version, the step to the next one.
MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {1: keys.create}


def prepare(database: Database) -> None:
    """Make the tables in an empty database, or bring older ones up to date; each step in one transaction.

    Raises StorageDamaged when the database is something else's, Exit when a newer version of this program wrote it.
    """
    for attempt in range(2):
        try:
            with database.write() as connection:
                _prepare(connection, VERSION, MIGRATIONS)
            return
        except Conflict:  # another process made the tables at the same moment
            if attempt:
                raise


def check(database: Database) -> None:
    """See that the tables are there, in this version, and can be read. Raises StorageDamaged or Exit."""
    with database.read() as connection:
        _refuse_other(_version(connection), VERSION)


def _prepare(connection: Connection, wanted: int, migrations: Mapping[int, Callable[[Connection], None]]) -> None:
    names = inspect(connection).get_table_names()
    if not names:
        metadata.create_all(connection)
        connection.execute(insert(schema_version), {"version": wanted})
        connection.execute(insert(counters), {"name": SERIAL, "value": 0})
        connection.execute(insert(chores), [{"name": name, "due": 0} for name in CHORES])
        return
    if schema_version.name not in names:
        raise StorageDamaged("the database holds other tables than those of post_manager")
    version = _version(connection)
    while version < wanted and version in migrations:
        migrations[version](connection)
        version += 1
        connection.execute(update(schema_version), {"version": version})
    _refuse_other(version, wanted)


def _version(connection: Connection) -> int:
    version = connection.execute(select(schema_version.c.version)).scalar_one_or_none()
    if not isinstance(version, int):
        raise StorageDamaged("the database does not say which version it has")
    return version


def _refuse_other(version: int, wanted: int) -> None:
    if version != wanted:
        text = f"the database has version {version} of its tables, this program needs {wanted}"
        raise Exit(os.EX_CONFIG, text)
