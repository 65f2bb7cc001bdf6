"""The posts that ended unfetched, in the order in which they did, for the notices to their senders."""

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the index, which starts with what has expired or was withdrawn so far."""
    op.create_index(
        "posts_by_end",
        "posts",
        ["sender", "changed", "serial"],
        sqlite_where=text("state > 1"),
        postgresql_where=text("state > 1"),
    )
