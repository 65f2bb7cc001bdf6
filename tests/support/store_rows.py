"""The store's database seen from within: its sums must be what they sum up, whatever happened to it."""

import hashlib
from collections.abc import Iterator

from sqlalchemy import func, select

from services.post_manager.storage import schema
from services.post_manager.storage.database import Database


class Octets:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.digest = hashlib.sha256(data).digest()
        self.size = len(data)

    def pieces(self, size: int) -> Iterator[bytes]:
        """As storage.contents.Body."""
        return (self.data[start : start + size] for start in range(0, self.size, size))


def rows(database: Database, table: str) -> int:
    """How many rows a table has."""
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(schema.metadata.tables[table])).scalar_one()


def assert_consistent(database: Database) -> None:
    """Every sum and every reference count is what counting the posts gives."""
    with database.read() as connection:
        waiting = connection.execute(select(schema.posts).where(schema.posts.c.state == schema.WAITING)).all()
        kept = {row.id: row for row in connection.execute(select(schema.contents))}
        sizes: dict[int, int] = {}
        for chunk in connection.execute(select(schema.chunks)):
            sizes[chunk.content] = sizes.get(chunk.content, 0) + len(chunk.data)
        tallies = {(r.recipient, r.sender, r.address): r.posts for r in connection.execute(select(schema.tallies))}
        usage = {r.sender: (r.posts, r.octets) for r in connection.execute(select(schema.usage)) if r.posts or r.octets}
    assert {i: row.refs for i, row in kept.items()} == {i: sum(p.content == i for p in waiting) for i in kept}
    assert {p.content for p in waiting} == set(kept)
    assert sizes == {i: row.size for i, row in kept.items() if row.size}
    pairs = [(p.recipient, p.sender, p.sender_address) for p in waiting]
    assert tallies == {pair: pairs.count(pair) for pair in pairs}
    for sender in {p.sender for p in waiting} | set(usage):
        mine = [p for p in waiting if p.sender == sender]
        octets = sum(len(p.head) for p in mine) + sum(row.size for row in kept.values() if row.sender == sender)
        assert usage.get(sender, (0, 0)) == (len(mine), octets)
