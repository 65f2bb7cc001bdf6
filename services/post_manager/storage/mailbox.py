"""Posts from the recipient's side: what waits, how to read it, and the end of it (protocol.md §5.3 to §5.5, §6)."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select

from services.post_manager.storage.database import Database
from services.post_manager.storage.ending import end
from services.post_manager.storage.nonces import Nonce, once
from services.post_manager.storage.schema import FETCHED, WAITING, WITHDRAWN, contents, posts, tallies
from services.post_manager.storage.statements import fetch

MAX_OTHERS = 100


@dataclass(frozen=True, slots=True)
class Listed:
    """A post that waits; ``size`` in octets, ``stored`` in Unix time."""

    id: bytes
    serial: int
    sender: str
    address: str
    size: int
    stored: int


@dataclass(frozen=True, slots=True)
class Other:
    """A sender who was not asked for, and how many of his posts wait."""

    sender: str
    address: str
    posts: int


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of what waits for a recipient; ``serial`` is the largest one, from whomever, 0 for none."""

    posts: tuple[Listed, ...]
    more: bool
    serial: int
    others: tuple[Other, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A post of a recipient's that can be read: its head, and its body's content id and size in octets."""

    head: bytes
    content: int
    body_size: int


_TALLIES = (
    select(tallies.c.sender, tallies.c.address, tallies.c.posts)
    .where(tallies.c.recipient == bindparam("recipient"))
    .order_by(tallies.c.sender, tallies.c.address)
)
_LARGEST = (
    select(func.coalesce(func.max(posts.c.serial), 0))
    .where(posts.c.recipient == bindparam("recipient"), posts.c.state == bindparam("waiting", WAITING))
    .scalar_subquery()
)
_COUNT = (
    select(func.coalesce(func.sum(tallies.c.posts), 0))
    .where(tallies.c.recipient == bindparam("recipient"))
    .scalar_subquery()
)
_WAITING = select(_COUNT.label("posts"), _LARGEST.label("serial"))
_PAGE = (
    select(posts.c.id, posts.c.serial, posts.c.sender, posts.c.sender_address, posts.c.size, posts.c.stored)
    .where(posts.c.recipient == bindparam("recipient"), posts.c.state == bindparam("waiting", WAITING))
    .where(posts.c.serial > bindparam("after"), posts.c.sender.in_(bindparam("senders", expanding=True)))
    .order_by(posts.c.serial)
    .limit(bindparam("most"))
)
# Another's post is found no more than an absent one: not even the work for it shows that it is there.
_READABLE = """
    SELECT posts.id, posts.state, posts.head, posts.content, contents.size
    FROM (VALUES {}) AS asked JOIN posts ON posts.id = asked.column1 AND posts.recipient = asked.column2
    LEFT JOIN contents ON contents.id = posts.content
"""


def waiting(connection: Connection, recipient: str) -> tuple[int, int]:
    """Return how many posts wait for a recipient, from whomever, and the largest serial among them, 0 for none.

    Two reads of an index, however many posts wait.
    """
    row = connection.execute(_WAITING, {"recipient": recipient}).one()
    return int(row.posts), int(row.serial)


def page(database: Database, recipient: str, senders: Sequence[str], after: int, limit: int) -> Listing:
    """Return at most ``limit`` of the posts that wait for a recipient from these senders, those after a serial."""
    wanted = frozenset(senders)
    with database.read() as connection:
        present, others = _sort_out(connection, recipient, wanted)
        _, serial = waiting(connection, recipient)
        rows = []
        if present:
            asked = {"recipient": recipient, "after": after, "senders": sorted(present), "most": limit + 1}
            rows = list(connection.execute(_PAGE, asked))
    listed = tuple(Listed(*row) for row in rows[:limit])
    return Listing(listed, len(rows) > limit, serial, others)


def _sort_out(connection: Connection, recipient: str, wanted: frozenset[str]) -> tuple[set[str], tuple[Other, ...]]:
    """Return who of ``wanted`` has mail waiting, and the first of those others who have."""
    present: set[str] = set()
    others: list[Other] = []
    for row in connection.execute(_TALLIES, {"recipient": recipient}):
        if row.sender in wanted:
            present.add(row.sender)
        elif len(others) < MAX_OTHERS:
            others.append(Other(row.sender, row.address, row.posts))
    return present, tuple(others)


def look_up(database: Database, recipient: str, ids: Sequence[bytes]) -> dict[bytes, Stored | None]:
    """Return those of these posts that a recipient can read; None for one that its sender withdrew.

    Posts that are unknown, another's, fetched or expired are not in the answer, and cannot be told apart.
    """
    with database.read() as connection:
        rows = fetch(connection, _READABLE, ((post_id, recipient) for post_id in ids))
    return {
        post_id: Stored(head, content, size) if state == WAITING else None
        for post_id, state, head, content, size in rows
        if state in (WAITING, WITHDRAWN)
    }


def find(connection: Connection, post_id: bytes) -> Stored | None:
    """Return a post that waits, whoever it is for."""
    query = select(posts.c.head, posts.c.content, contents.c.size).join(contents, contents.c.id == posts.c.content)
    row = connection.execute(query.where(posts.c.id == post_id, posts.c.state == WAITING)).one_or_none()
    return Stored(*row) if row is not None else None


def acknowledge(
    database: Database, recipient: str, ids: Sequence[bytes], now: int, keep: int, nonce: Nonce | None = None
) -> list[bytes]:
    """Delete the content of these posts of a recipient's, durably; return the ids of those that were waiting.

    ``nonce`` is used up in the same transaction. Raises Replayed when it was used before.
    """
    own = (posts.c.id.in_(ids), posts.c.recipient == recipient)
    return once(database, nonce, lambda connection: end(connection, own, FETCHED, now, keep))
