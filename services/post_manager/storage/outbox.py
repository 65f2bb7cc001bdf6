"""Posts that were stored, as their sender sees them, and what time does to them (protocol.md §5.6, §5.7)."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, tuple_

from services.post_manager.storage.database import Database
from services.post_manager.storage.ending import end
from services.post_manager.storage.nonces import Nonce, once
from services.post_manager.storage.schema import ENDED, EXPIRED, WAITING, WITHDRAWN, posts

BATCH = 500  # posts in one transaction of a chore


@dataclass(frozen=True, slots=True)
class Sent:
    """One post in the outbox: ``state`` as in the schema, times in Unix time, ``size`` in octets."""

    id: bytes
    serial: int
    recipient: str
    address: str
    size: int
    state: int
    stored: int
    changed: int
    expires: int


_COLUMNS = (
    posts.c.id,
    posts.c.serial,
    posts.c.recipient,
    posts.c.address,
    posts.c.size,
    posts.c.state,
    posts.c.stored,
    posts.c.changed,
    posts.c.expires,
)


def page(
    database: Database, sender: str, after: int, limit: int, states: Sequence[int], since: int | None = None
) -> tuple[tuple[Sent, ...], bool]:
    """Return a sender's posts with a serial above ``after``, at most ``limit``, and whether there are more.

    ``states``: only posts in one of these; none means all. With ``since`` (Unix time): only posts that ended unfetched
    behind ``after`` in that second, or later, in the order in which they ended.
    """
    query = select(*_COLUMNS).where(posts.c.sender == sender)
    if since is None:
        query = query.where(posts.c.serial > after).order_by(posts.c.serial)
    else:
        place = tuple_(posts.c.changed, posts.c.serial)
        query = query.where(ENDED, place > (since, after)).order_by(posts.c.changed, posts.c.serial)
    if states:
        query = query.where(posts.c.state.in_(states))
    with database.read() as connection:
        rows = connection.execute(query.limit(limit + 1)).all()
    return tuple(Sent(*row) for row in rows[:limit]), len(rows) > limit


def withdraw(
    database: Database, sender: str, ids: Sequence[bytes], now: int, keep: int, nonce: Nonce | None = None
) -> tuple[dict[bytes, int], int]:
    """Delete those of a sender's posts that still wait, durably.

    Returns the state of each that is the sender's, and how many waited until now.
    ``nonce`` is used up in the same transaction. Raises Replayed when it was used before.
    """

    def work(connection: Connection) -> tuple[dict[bytes, int], int]:
        own = (posts.c.id.in_(ids), posts.c.sender == sender)
        ended = end(connection, own, WITHDRAWN, now, keep)
        rows = connection.execute(select(posts.c.id, posts.c.state).where(*own))
        return {row.id: row.state for row in rows}, len(ended)

    return once(database, nonce, work)


def expire(database: Database, now: int, keep: int) -> list[bytes]:
    """Delete the content of posts whose lifetime is over; return the ids of one batch, none when all is done."""

    def work(connection: Connection) -> list[bytes]:
        # Chosen by the index of times: in the order of serials, as they are locked, all that waits would be read.
        late = select(posts.c.serial).where(posts.c.due <= now, posts.c.state == WAITING)
        serials = connection.execute(late.order_by(posts.c.due).limit(BATCH)).scalars().all()
        return end(connection, (posts.c.serial.in_(serials),), EXPIRED, now, keep) if serials else []

    return database.transact(work)


def forget(database: Database, now: int) -> int:
    """Delete one batch of tombstones whose time is over; return how many there were, 0 when all is done."""

    def work(connection: Connection) -> int:
        old = select(posts.c.serial).where(posts.c.due <= now, posts.c.state != WAITING).limit(BATCH)
        serials = list(connection.execute(old).scalars())
        if serials:
            connection.execute(delete(posts).where(posts.c.serial.in_(serials)))
        return len(serials)

    return database.transact(work)
