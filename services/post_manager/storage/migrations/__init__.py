"""The steps from each version of the tables to the next one, made with Alembic.

Only what has a step to make imports this: Alembic takes a while to load. A new version of the tables needs

1. the change in ``storage/schema.py``, and there the next number as VERSION;
2. a module ``versions/revision_NNNN.py`` with ``revision``, ``down_revision`` and ``upgrade()``. It says everything
   itself and imports nothing of schema.py, which will change again. SQLite changes a table by copying it:
   ``with op.batch_alter_table("posts") as posts: posts.add_column(Column(…))`` does the right thing on every engine.

``tests/unit/test_post_manager_migrations.py`` makes sure that both lead to the same tables, on every engine, and that a
database of version 1 keeps its posts. There is no way back to an older version but a backup.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

VERSION_TABLE = "alembic_version"


def upgrade(connection: Connection) -> None:
    """Make the next step, in the transaction of ``connection``; from nothing it leads to version 0001."""
    command.upgrade(_config(connection), "+1")


def adopt(connection: Connection, version: str) -> None:
    """Say that the tables have this version already, in the transaction of ``connection``."""
    command.stamp(_config(connection), version)


def head() -> str | None:
    """Return the version that the last step leads to."""
    return ScriptDirectory(str(Path(__file__).parent)).get_current_head()


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
