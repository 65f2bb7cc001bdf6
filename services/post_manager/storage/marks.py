"""What a database says of itself: that it is a backup, that it was moved elsewhere, or that it is being filled.

No store is run on one that says so. The marks stand among the counters, where every version finds them.
"""

import os

from sqlalchemy import Connection, delete, insert, inspect, select

from services.post_manager.storage.schema import counters
from stubmail.errors import Exit

BACKUP = "backup"  # when it was made, in Unix time
ARRIVING = "arriving"  # the number of the move that fills it
MOVED = "moved"  # the number of the move that emptied it of its meaning

_REASONS = {
    BACKUP: "the database is a backup, and no store is run on one: use post_manager restore",
    ARRIVING: "the database is not complete: a post_manager migrate to it was cut short; run that again",
    MOVED: "the database was moved: set [post_manager] database to where it is now",
}


def read(connection: Connection, name: str) -> int | None:
    """Return a mark's value; None when the database does not bear it, or has no tables yet."""
    if not inspect(connection).has_table(counters.name):
        return None
    return connection.execute(select(counters.c.value).where(counters.c.name == name)).scalar_one_or_none()


def put(connection: Connection, name: str, value: int) -> None:
    """Give a database a mark."""
    remove(connection, name)
    connection.execute(insert(counters), {"name": name, "value": value})


def remove(connection: Connection, name: str) -> None:
    """Take a mark away."""
    connection.execute(delete(counters).where(counters.c.name == name))


def refuse_marked(connection: Connection) -> None:
    """Raise Exit when the database says that no store must be run on it."""
    if not inspect(connection).has_table(counters.name):
        return
    for name in connection.execute(select(counters.c.name).where(counters.c.name.in_(_REASONS))).scalars():
        raise Exit(os.EX_CONFIG, _REASONS[name])
