"""The store's own key, the same for all its processes and replicas."""

from alembic import op
from sqlalchemy import Column, LargeBinary, String

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table of keys; the key is made at its first use."""
    op.create_table(
        "keys", Column("name", String(16), primary_key=True), Column("value", LargeBinary(32), nullable=False)
    )
