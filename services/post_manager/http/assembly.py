"""Puts together, from the settings, what stands behind the HTTP edge."""

import os
import time
from collections.abc import Callable

from services.post_manager import directory, service
from services.post_manager.cookie_ids import CookieIds
from services.post_manager.counters import Counters
from services.post_manager.http.admission import Gate
from services.post_manager.http.app import Allow, Edge
from services.post_manager.http.operations import Keeping, Operations
from services.post_manager.http.rate import Buckets
from services.post_manager.http.room import Room
from services.post_manager.policy import Accounts
from services.post_manager.settings import PostManager
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_path
from services.post_manager.storage.errors import StorageError
from services.post_manager.storage.keys import store_key
from services.post_manager.tokens import TokenGate, Tokens
from stubmail.errors import Exit


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
    keeping = Keeping(room, service.tombstone(section))
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
