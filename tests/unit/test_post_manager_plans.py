"""What a request costs does not grow with the store: none of its statements reads a whole table.

Judged by what SQLite says it would do; it does so for a table of any size, since nothing here runs ANALYZE.
"""

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.post_manager.chores import Chores
from services.post_manager.counters import Counters
from services.post_manager.storage import contents, mailbox, nonces, outbox, posts, sessions
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.nonces import Nonce
from services.post_manager.storage.posts import NewPost, Sender, Terms
from services.post_manager.storage.schema import WAITING
from services.post_manager.storage.watch import Watch
from tests.support.databases import prepared
from tests.support.statements import watched_statements
from tests.support.store_rows import Octets

ALICE, BOB = Sender("A" * 40, "alice@alpha.example"), "B" * 40
TERMS = Terms(quota_posts=100, quota_octets=10**7, max_post=10**6, lifetime=1000)
NOW, KEEP = 1_000_000, 500
# One row for all of the store, for each chore, or for each account.
SMALL = ("k", "asked", "floor", "usage", "counters", "chores", "keys", "CONSTANT", "alembic_version")

_SCAN = re.compile(r"SCAN (\w+)")


def _new(number: int) -> list[NewPost]:
    return [NewPost(secrets.token_bytes(16), BOB, "bob@beta.example", b"head", 0) for _ in range(number)]


def _store(database: Database) -> list[bytes]:
    new = _new(3)
    nonce = Nonce(ALICE.fingerprint, secrets.token_bytes(16), NOW)
    posts.store(database, ALICE, new, [Octets(secrets.token_bytes(10))], TERMS, NOW, nonce)
    return [post.id for post in new]


def _store_shared(database: Database) -> None:
    for _ in range(2):
        posts.store(database, ALICE, _new(1), [Octets(b"the same")], TERMS, NOW)


def _list(database: Database) -> None:
    _store(database)
    mailbox.page(database, BOB, [ALICE.fingerprint, "C" * 40], 0, 10)


def _fetch(database: Database) -> None:
    found = [post for post in mailbox.look_up(database, BOB, _store(database)).values() if post is not None]
    with database.read() as connection:
        contents.read_first_chunks(connection, [post.content for post in found])
        contents.read_chunk(connection, found[0].content, 0)


def _acknowledge(database: Database) -> None:
    mailbox.acknowledge(database, BOB, _store(database), NOW, KEEP, Nonce(BOB, secrets.token_bytes(16), NOW))


def _withdraw(database: Database) -> None:
    outbox.withdraw(database, ALICE.fingerprint, _store(database)[:2], NOW, KEEP)


def _outbox(database: Database) -> None:
    outbox.page(database, ALICE.fingerprint, 0, 10, [])
    outbox.page(database, ALICE.fingerprint, 0, 10, [WAITING])
    outbox.page(database, ALICE.fingerprint, 0, 10, [2, 3], NOW)


def _sessions(database: Database) -> None:
    session, cookie = sessions.new_session(ALICE.fingerprint, ALICE.address, NOW, secrets.token_bytes(16))
    sessions.save(database, session, cookie, NOW)
    nonces.remember(database, Nonce(session.id.hex(), secrets.token_bytes(16), NOW))
    with database.read() as connection:
        sessions.find_session(connection, session.id, NOW)
        nonces.seen(connection, Nonce(session.id.hex(), bytes(16), NOW))
    sessions.touch_cookies(database, [cookie.id], NOW)


def _check(database: Database) -> None:
    with database.watch() as connection:
        driver: Any = connection.connection.driver_connection
        watch = Watch(connection)
        seen: list[str] = []
        driver.set_trace_callback(seen.append)
        watch.look().cookies([secrets.token_bytes(16)], NOW)
        driver.set_trace_callback(None)
    for statement in seen:
        if statement.startswith("SELECT"):
            with database.read() as reading:
                reading.exec_driver_sql(statement)  # for the plan to be looked at


def _chores(database: Database) -> None:
    _store(database)
    Chores(database, lambda: NOW + 10 * TERMS.lifetime, KEEP, Counters()).run_due()


@pytest.mark.parametrize(
    "work", [_store, _store_shared, _list, _fetch, _acknowledge, _withdraw, _outbox, _sessions, _check, _chores]
)
def test_no_statement_of_a_request_reads_a_whole_table(work: Callable[[Database], object], tmp_path: Path) -> None:
    database = prepared(sqlite_url(tmp_path / "store.db"))
    statements: dict[str, Any] = {}

    def note(statement: str, values: Any) -> None:
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")) or "SELECT" in statement:
            statements[statement] = values

    with watched_statements(note):
        work(database)
    assert statements
    scans = []
    with database.read() as connection:
        for statement, parameters in statements.items():
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            scans += [(row.detail, statement) for row in plan if _scans_much(row.detail)]
    database.close()
    assert not scans


def _scans_much(detail: str) -> bool:
    found = _SCAN.match(detail)
    return found is not None and found[1] not in SMALL and not found[1].isdigit()
