"""Nonces in the order in which they come, in SQLite too: one page of its journal less for each request."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, String

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Put the rows into a table that has row numbers; without them, each index holds the whole random key."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.drop_index("nonces_by_time", "nonces")
    op.rename_table("nonces", "nonces_before")
    op.create_table(
        "nonces",
        Column("client", String(64), primary_key=True),
        Column("nonce", LargeBinary(16), primary_key=True),
        Column("time", BigInteger, nullable=False),
    )
    op.execute("INSERT INTO nonces (client, nonce, time) SELECT client, nonce, time FROM nonces_before ORDER BY time")
    op.drop_table("nonces_before")
    op.create_index("nonces_by_time", "nonces", ["time"])
