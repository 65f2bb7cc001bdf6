"""The end of waiting posts: their content goes, the sums follow, a tombstone stays."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, func, select, update

from services.post_manager.storage import contents, tallies
from services.post_manager.storage.schema import WAITING, posts

_ROW = (posts.c.serial, posts.c.id, posts.c.sender, posts.c.sender_address, posts.c.recipient, posts.c.content)


def end(connection: Connection, which: Sequence[ColumnElement[bool]], state: int, now: int, keep: int) -> list[bytes]:
    """Give the waiting posts that match ``which`` their last state; return their ids. The caller bounds how many.

    ``keep``: seconds for which the tombstone stays. Locks rows in the order of their serials, so that two
    transactions never wait for each other.
    """
    query = select(*_ROW, func.length(posts.c.head).label("octets")).where(*which, posts.c.state == WAITING)
    rows = connection.execute(query.order_by(posts.c.serial).with_for_update()).all()
    if not rows:
        return []
    serials = [row.serial for row in rows]
    values = {"state": state, "changed": now, "due": now + keep, "content": None, "head": None}
    connection.execute(update(posts).where(posts.c.serial.in_(serials)).values(values))
    tallies.usage_of(connection, {row.sender for row in rows})  # locked before the contents, as by who stores
    freed = contents.release(connection, Counter(row.content for row in rows))
    for row in rows:
        freed[row.sender] += row.octets
    tallies.take_usage(connection, Counter(row.sender for row in rows), freed)
    tallies.take(connection, Counter((row.recipient, row.sender, row.sender_address) for row in rows))
    return [row.id for row in rows]
