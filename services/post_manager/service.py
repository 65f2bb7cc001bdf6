"""Puts the store together from its settings; what its processes have in common when they start."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import ArgumentError

from services.post_manager import directory
from services.post_manager.admission import Gate
from services.post_manager.app import Allow, Edge
from services.post_manager.cookie_ids import CookieIds
from services.post_manager.counters import Counters
from services.post_manager.operations import Keeping, Operations
from services.post_manager.policy import DAY, Accounts
from services.post_manager.rate import Buckets
from services.post_manager.room import Room
from services.post_manager.settings import PostManager
from services.post_manager.storage import damage, marks, schema
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import describe, sqlite_path
from services.post_manager.storage.errors import StorageDamaged, StorageError
from services.post_manager.storage.keys import store_key
from services.post_manager.tokens import TokenGate, Tokens
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


def make_edge(
    section: PostManager,
    host: str,
    accounts: Accounts,
    database: Database,
    *,
    counters: Counters,
    allow: Allow | None = None,
    clock: Callable[[], float] = time.time,
) -> Edge:
    """Return everything behind the HTTP edge. Raises Exit when the database does not answer."""
    incoming = section.spool / directory.INCOMING
    try:
        key = store_key(database)
    except StorageError as error:
        raise Exit(os.EX_UNAVAILABLE, f"the database cannot be used: {error.text}") from error
    gate = Gate(
        host,
        database,
        incoming,
        clock,
        by_network=Buckets(section.rate_network),
        by_client=Buckets(section.rate_client),
        accounts=accounts,
    )
    room = Room(incoming, section.reserve_bytes, sqlite_path(section.database_url))
    keeping = Keeping(room, tombstone(section))
    return Edge(
        gate=gate,
        operations=Operations(host, database, accounts, keeping, CookieIds(key), clock, counters),
        database=database,
        counters=counters,
        prefix=section.prefix,
        max_request=section.max_request,
        proxies=section.proxies,
        tokens=TokenGate(Tokens(key), section.exempt, clock) if section.require_udp else None,
        clock=clock,
        allow=allow or (lambda connection, octets: None),
    )


def tombstone(section: PostManager) -> int:
    """For how many seconds the outbox shows a post that no longer waits."""
    return section.outbox_days * DAY
