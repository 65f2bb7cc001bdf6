"""What all processes of the store do first: read the settings, open the database."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import ArgumentError

from services.post_manager.policy import DAY
from services.post_manager.settings import PostManager
from services.post_manager.storage import damage, marks, schema
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import describe, sqlite_path
from services.post_manager.storage.errors import StorageDamaged, StorageError
from stubmail import cli
from stubmail.errors import Exit
from stubmail.log import event
from stubmail.settings import ConfigError, Domain, load_file

RETRY_SECONDS = 1.0  # until a database that is away is tried again
# Of its children: glibc would have each of their threads keep memory that the others could use; HTTP has many.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}

_log = logging.getLogger("post_manager")


class Away(Exit):
    """The database is not there now, and may be later: a directory to be mounted, a server to be started."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(os.EX_UNAVAILABLE, f"{where} cannot be used: {why}")


def read(config: Path, *, sample: bool = True) -> tuple[PostManager, str]:
    """Return [post_manager] of stub.conf and the store's host name. Raises ConfigError.

    ``sample``: a missing file is answered by a sample of it on standard output.
    """
    if not sample:
        load_file(config)
    section, domain = cli.load(config, post_manager=PostManager, domain=Domain)
    return section, section.host_of(domain)


def open_database(section: PostManager, connections: int, *, prepare: bool = False, moved: bool = False) -> Database:
    """Open the database and see that its tables can be used; ``prepare`` makes or migrates them first.

    ``moved``: also one that says of itself that no store is to be run on it.

    A file that is damaged is left as it is: what can be read of it is, and each operation that cannot be done raises
    StorageError. Raises Exit with one sentence, Away when another try may succeed.
    """
    try:
        path = sqlite_path(section.database_url)
        if prepare and path is not None and (problem := damage.probe(path)):
            damage.mark(path, problem)
        database = Database(section.database_url, connections)
    except ValueError as error:
        raise ConfigError(f"[post_manager] database: {error}") from error
    except ArgumentError as error:
        raise ConfigError(f"[post_manager] database is not a URL that can be used: {error}") from error
    except ImportError as error:
        raise ConfigError(f"[post_manager] database needs a driver that is not installed: {error.name}") from error
    except OSError as error:
        raise Away(describe(section.database_url), error.strerror or str(error)) from error
    except StorageError as error:
        raise Away(describe(section.database_url), error.text) from error
    try:
        _look(database, prepare, moved)
    except StorageError as error:
        if path is not None and damage.is_marked(path):
            database.reopen()
            return database
        database.close()
        if isinstance(error, StorageDamaged):
            text = f"{describe(section.database_url)} is not a store's, or damaged ({error.text}); it was left as it is"
            raise Exit(os.EX_DATAERR, text) from error
        raise Away(describe(section.database_url), error.text) from error
    except Exit:
        database.close()
        raise
    return database


def _look(database: Database, prepare: bool, moved: bool) -> None:
    if not moved:
        with database.read() as connection:
            marks.refuse_marked(connection)
    if prepare and not database.read_only:
        schema.prepare(database)
    else:
        schema.check(database)


def await_database(section: PostManager, connections: int, pause: Callable[[float], object] = time.sleep) -> Database:
    """Open the database as soon as it is there, for a process that has nothing else to do meanwhile.

    What else is wrong with it is waited out as well: the process that started this one has looked at everything.
    """
    said = ""
    while True:
        try:
            database = open_database(section, connections, prepare=True)
        except Exit as error:
            said = say_away(error, said)
        else:
            if said:
                say_found(section)
            return database
        pause(RETRY_SECONDS)


def say_away(error: Exit, said: str = "") -> str:
    """Log why the database cannot be used, unless that was just said; return what is said now."""
    if error.text != said:
        event(_log, "unavailable", level=logging.ERROR, error=error.text, what="the store serves when that is mended")
    return error.text


def say_found(section: PostManager) -> None:
    """Log that a database is there that was away."""
    event(_log, "found", database=describe(section.database_url))


def say_damaged(section: PostManager) -> str:
    """Log that the store runs on a damaged file; return what is said."""
    path = sqlite_path(section.database_url)
    what = damage.told(path) if path is not None else ""
    event(_log, "read-only", level=logging.CRITICAL, what=what, cure=damage.CURE)
    return f"{what}; {damage.CURE}"


def tombstone(section: PostManager) -> int:
    """For how many seconds the outbox shows a post that no longer waits."""
    return section.outbox_days * DAY
