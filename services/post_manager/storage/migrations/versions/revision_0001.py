"""Posts and their contents, the sums over them, sessions, cookies and nonces."""

from alembic import op
from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, String, UniqueConstraint

revision = "0001"
down_revision = None

_KEY = BigInteger().with_variant(Integer(), "sqlite")
_FINGERPRINT = String(64)
_ADDRESS = String(254)


def upgrade() -> None:
    """Make the first tables, with their first rows."""
    _posts()
    _sums()
    _clients()
    counters = op.create_table("counters", Column("name", String(16), primary_key=True), Column("value", BigInteger))
    chores = op.create_table("chores", Column("name", String(16), primary_key=True), Column("due", BigInteger))
    op.bulk_insert(counters, [{"name": "serial", "value": 0}])
    names = ("posts", "tombstones", "sessions", "cookies", "nonces")
    op.bulk_insert(chores, [{"name": name, "due": 0} for name in names])


def _posts() -> None:
    op.create_table(
        "posts",
        Column("serial", _KEY, primary_key=True, autoincrement=False),
        Column("id", LargeBinary(16), nullable=False, unique=True),
        Column("state", SmallInteger, nullable=False),
        Column("sender", _FINGERPRINT, nullable=False),
        Column("sender_address", _ADDRESS, nullable=False),
        Column("recipient", _FINGERPRINT, nullable=False),
        Column("address", _ADDRESS, nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("stored", BigInteger, nullable=False),
        Column("changed", BigInteger, nullable=False),
        Column("expires", BigInteger, nullable=False),
        Column("due", BigInteger, nullable=False),
        Column("content", BigInteger),
        Column("head", LargeBinary),
        Index("posts_by_recipient", "recipient", "state", "serial", "sender"),
        Index("posts_by_sender", "sender", "serial"),
        Index("posts_by_due", "due"),
    )
    op.create_table(
        "contents",
        Column("id", _KEY, primary_key=True, autoincrement=True),
        Column("sender", _FINGERPRINT, nullable=False),
        Column("digest", LargeBinary(32), nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("refs", BigInteger, nullable=False),
        UniqueConstraint("sender", "digest"),
    )
    op.create_table(
        "chunks",
        Column("content", BigInteger, primary_key=True, autoincrement=False),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("data", LargeBinary, nullable=False),
    )
    if op.get_context().dialect.name == "postgresql":  # ciphertext does not get smaller: do not even try
        op.execute("ALTER TABLE chunks ALTER COLUMN data SET STORAGE EXTERNAL")


def _sums() -> None:
    op.create_table(
        "tallies",
        Column("recipient", _FINGERPRINT, primary_key=True),
        Column("sender", _FINGERPRINT, primary_key=True),
        Column("address", _ADDRESS, primary_key=True),
        Column("posts", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage",
        Column("sender", _FINGERPRINT, primary_key=True),
        Column("posts", BigInteger, nullable=False),
        Column("octets", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _clients() -> None:
    op.create_table(
        "sessions",
        Column("id", LargeBinary(16), primary_key=True),
        Column("secret", LargeBinary(32), nullable=False),
        Column("fingerprint", _FINGERPRINT, nullable=False),
        Column("address", _ADDRESS, nullable=False),
        Column("expires", BigInteger, nullable=False),
        Index("sessions_by_fingerprint", "fingerprint", "expires"),
        Index("sessions_by_expiry", "expires"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "cookies",
        Column("id", LargeBinary(16), primary_key=True),
        Column("secret", LargeBinary(32), nullable=False),
        Column("fingerprint", _FINGERPRINT, nullable=False),
        Column("used", BigInteger, nullable=False),
        Index("cookies_by_fingerprint", "fingerprint", "used"),
        Index("cookies_by_use", "used"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "nonces",
        Column("client", _FINGERPRINT, primary_key=True),
        Column("nonce", LargeBinary(16), primary_key=True),
        Column("time", BigInteger, nullable=False),
        Index("nonces_by_time", "time"),
        sqlite_with_rowid=False,
    )
