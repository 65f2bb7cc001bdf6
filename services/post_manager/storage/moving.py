"""A database moved to another one, of whatever engine: nothing is lost, and never do both take posts.

Both databases bear the number of the move. The target does while it is being filled (marks.ARRIVING): until that mark
goes, no store is run on it, and another attempt begins by emptying it. The source does from the moment at which the
copy is complete (marks.MOVED): from then on it refuses every change, also those of a store that has it open. Killed
before that moment, the source is as it was; killed behind it, the next attempt only takes the target's mark away.
"""

import os
import secrets

from sqlalchemy import Connection, delete

from services.post_manager.storage import marks
from services.post_manager.storage.backups import finish
from services.post_manager.storage.copying import Copied, copy
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import StorageError
from services.post_manager.storage.schema import chunks, contents, posts, tallies, usage
from services.post_manager.storage.snapshot import held, snapshot
from stubmail.errors import Exit

_TABLES = (chunks, contents, posts, tallies, usage)
_REFUSAL = "the store was moved to another database"
_FUNCTION = f"""
CREATE FUNCTION stubmail_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$
"""
_TRIGGER = """
CREATE TRIGGER stubmail_moved BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON posts
FOR EACH STATEMENT EXECUTE FUNCTION stubmail_moved()
"""


def move(source: Database, target: Database) -> Copied | None:
    """Move all posts; None when an earlier attempt had done that, and only had not said so in the target.

    The target has its tables, and no posts. No session, cookie or nonce moves: clients open new sessions by themselves.
    Raises Exit with what keeps the databases from being moved, StorageError, and StorageDamaged for the source.
    """
    if _is_done(source, target):
        _open_target(target)
        return None
    number = secrets.randbits(62)
    _claim(target, number)
    with held(source) as kept:
        marks.refuse_marked(kept.connection)
        copied = copy(kept.pages(), kept, target, now=None, durable=False)
        with snapshot(target) as arrived:
            if arrived.count() != kept.count():
                raise StorageError("the target does not hold what was copied to it: is another program writing to it?")
        finish(kept.serial(), target, {})  # its commit makes the earlier ones durable, too
        _close_source(kept.connection, number)
    _open_target(target)
    return copied


def refuse_filled(connection: Connection) -> None:
    """Raise Exit when a database is not an empty store, or one that an earlier move left half filled."""
    if marks.read(connection, marks.ARRIVING) is not None:
        return
    marks.refuse_marked(connection)
    if any(connection.execute(table.select().limit(1)).first() for table in (posts, contents)):
        raise Exit(
            os.EX_CANTCREAT, "the target is not empty: it holds posts, and a move goes to an empty database only"
        )


def _is_done(source: Database, target: Database) -> bool:
    with source.read() as connection:
        moved = marks.read(connection, marks.MOVED)
    if moved is None:
        return False
    with target.read() as connection:
        if marks.read(connection, marks.ARRIVING) == moved:
            return True
    raise Exit(os.EX_CONFIG, "the database was moved already: set [post_manager] database to where it is now")


def _claim(target: Database, number: int) -> None:
    with held(target) as empty:
        refuse_filled(empty.connection)
        for table in _TABLES:
            empty.connection.execute(delete(table))
        marks.put(empty.connection, marks.ARRIVING, number)


def _open_target(target: Database) -> None:
    with target.write() as connection:
        marks.remove(connection, marks.ARRIVING)


def _close_source(connection: Connection, number: int) -> None:
    """From the commit on, nobody changes posts here any more, however long he has had the database open."""
    marks.put(connection, marks.MOVED, number)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_FUNCTION)
        connection.exec_driver_sql(_TRIGGER)
        return
    refuse = f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    for change in ("INSERT", "UPDATE", "DELETE"):
        connection.exec_driver_sql(f"CREATE TRIGGER moved_{change.lower()} BEFORE {change} ON posts {refuse}")
