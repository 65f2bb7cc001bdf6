"""What all processes of the store do first: read the settings, open the database."""

import os
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
from stubmail.settings import ConfigError, Domain, load_file


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
    StorageError. Raises Exit with one sentence.
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
        raise Exit(os.EX_UNAVAILABLE, f"{describe(section.database_url)} cannot be used: {error.text}") from error
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


def tombstone(section: PostManager) -> int:
    """For how many seconds the outbox shows a post that no longer waits."""
    return section.outbox_days * DAY
