"""What happens to a store's posts in the course of time, played by dice; and what a copy of it has to keep."""

import secrets
import shutil
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

from sqlalchemy import select

from services.post_manager.storage import contents, mailbox, outbox, posts, schema
from services.post_manager.storage.contents import CHUNK
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.examination import Examination
from services.post_manager.storage.posts import NewPost, Sender, Terms
from services.post_manager.storage.snapshot import snapshot
from tests.support.databases import prepared
from tests.support.store_rows import Octets

SENDERS = [Sender("A" * 40, "alice@alpha.example"), Sender("C" * 64, "amy@alpha.example")]
RECIPIENTS = ["B" * 40, "D" * 64, "E" * 40]
TERMS = Terms(quota_posts=10**6, quota_octets=10**12, max_post=10**9, lifetime=1000)
KEEP = 10**6
HEAD = bytes([0xC1, 3, 1, 2, 3])  # one session key packet, as far as its frame goes
BODIES = [Octets(bytes([number]) * size) for number, size in enumerate((0, 1, 5_000, CHUNK, CHUNK + 1, 3 * CHUNK + 7))]


@cache
def _template() -> Path:
    path = Path(mkdtemp(prefix="stubmail-template-")) / "store.db"
    prepared(sqlite_url(path)).close()
    return path


def new_database(path: Path) -> Database:
    """A store's database with its tables, from a copy: to make them takes a while."""
    shutil.copyfile(_template(), path)
    path.chmod(0o600)
    return Database(sqlite_url(path), 2)


def play(database: Database, dice: Random, now: int, steps: int) -> int:
    """Let things happen; return the time at which they end. Post ids are new ones each time."""
    for _ in range(steps):
        now += dice.randrange(200)
        sender, recipient = dice.choice(SENDERS), dice.choice(RECIPIENTS)
        match dice.randrange(8):
            case 0:
                outbox.expire(database, now, KEEP)
            case 1:
                outbox.withdraw(database, sender.fingerprint, _some(database, dice), now, KEEP)
            case 2 | 3:
                mailbox.acknowledge(database, recipient, _some(database, dice), now, KEEP)
            case _:
                number = dice.randrange(1, 4)
                bodies = dice.sample(BODIES, 2)
                new = [
                    NewPost(secrets.token_bytes(16), dice.choice(RECIPIENTS), "x@beta.example", HEAD, dice.randrange(2))
                    for _ in range(number)
                ]
                posts.store(database, sender, new, bodies, TERMS, now)
    return now


def _some(database: Database, dice: Random) -> list[bytes]:
    known = sorted(everything(database))
    return dice.sample(known, min(len(known), 3))


def everything(database: Database) -> dict[bytes, dict[str, Any]]:
    """All posts by id, with the digest of what was stored in place of the number of where it stands."""
    query = select(schema.posts, schema.contents.c.digest).outerjoin(
        schema.contents, schema.contents.c.id == schema.posts.c.content
    )
    with database.read() as connection:
        found = [dict(row._mapping) for row in connection.execute(query)]
    return {bytes(row["id"]): {name: value for name, value in row.items() if name != "content"} for row in found}


def without_serials(known: dict[bytes, dict[str, Any]]) -> dict[bytes, dict[str, Any]]:
    """The same, for copies that have serials of their own."""
    return {key: {name: value for name, value in row.items() if name != "serial"} for key, row in known.items()}


def damages(database: Database) -> list[str]:
    """What an examination finds, which reads every content."""
    found: list[str] = []
    with snapshot(database) as source:
        Examination(source, lambda damage: found.append(damage.text)).run()
    return found


def body_of(database: Database, post_id: bytes) -> bytes:
    """The body of a waiting post."""
    with database.read() as connection:
        post = mailbox.find(connection, post_id)
        assert post is not None
        numbers = range(-(-post.body_size // CHUNK))
        return b"".join(contents.read_chunk(connection, post.content, number) or b"" for number in numbers)
