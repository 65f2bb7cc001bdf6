"""Posts with their contents, copied from one database to another, whatever their engines, in bounded memory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select

from services.post_manager.storage import contents, serials, tallies
from services.post_manager.storage.contents import Key, New
from services.post_manager.storage.database import ATTEMPTS, Database
from services.post_manager.storage.errors import Conflict, StorageDamaged
from services.post_manager.storage.schema import WAITING, posts
from services.post_manager.storage.snapshot import KeptBody, Snapshot

BATCH_OCTETS = 8 * 2**20  # of contents in one transaction; a single larger one has one of its own

_KNOWN = select(posts.c.id).where(posts.c.id.in_(bindparam("ids", expanding=True)))
_INSERT = insert(posts)

Rows = Sequence[Row[Any]]


@dataclass(frozen=True, slots=True)
class Copied:
    """How much was copied: posts, those of them that wait, contents and their octets; and posts known already."""

    posts: int = 0
    waiting: int = 0
    contents: int = 0
    octets: int = 0
    known: int = 0

    def __add__(self, other: "Copied") -> "Copied":
        return Copied(
            self.posts + other.posts,
            self.waiting + other.waiting,
            self.contents + other.contents,
            self.octets + other.octets,
            self.known + other.known,
        )

    def __str__(self) -> str:
        bodies = f"{self.contents} contents with {self.octets} octets"
        return f"{self.posts} posts, {self.waiting} of them waiting, {bodies}"


def copy(pages: Iterator[Rows], source: Snapshot, target: Database, *, now: int | None, durable: bool) -> Copied:
    """Add posts, tombstones too, to a target that may hold some of them already: what it knows stays as it is there.

    ``now``: None keeps the serials, which is for a target without posts; else those added get new ones, in the same
    order. In transactions of bounded size, each of them durable or not; interrupted and done again, it goes on.
    Raises StorageDamaged when a content is not what was stored, and StorageError.
    """
    copied = Copied()
    for page in pages:
        for batch in _bounded(page):
            copied += _transact(source, batch, target, now, durable)
    return copied


def _bounded(page: Rows) -> Iterator[Rows]:
    """Cut a page where the contents would be too many octets for one transaction."""
    batch: list[Row[Any]] = []
    sizes: dict[int, int] = {}
    for row in page:
        if row.content is not None and row.content not in sizes:
            if batch and sum(sizes.values()) + (row.body_size or 0) > BATCH_OCTETS:
                yield batch
                batch, sizes = [], {}
            sizes[row.content] = row.body_size or 0
        batch.append(row)
    yield batch


def _transact(source: Snapshot, batch: Rows, target: Database, now: int | None, durable: bool) -> Copied:
    for attempt in range(ATTEMPTS):
        try:
            with target.write(durable=durable) as connection:
                return _put(source, batch, connection, now)
        except Conflict:  # a running store was faster
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("not reached")


def _put(source: Snapshot, batch: Rows, connection: Connection, now: int | None) -> Copied:
    known = {row.id for row in connection.execute(_KNOWN, {"ids": [row.id for row in batch]})}
    fresh = [row for row in batch if row.id not in known]
    if not fresh:
        return Copied(known=len(known))
    for row in fresh:
        if row.state == WAITING and (row.head is None or row.digest is None or row.content_sender != row.sender):
            raise StorageDamaged(f"post {row.id.hex()} waits without its content")
    first = serials.take(connection, len(fresh), now) if now is not None else 0
    numbered = [(row.serial if now is None else first + index, row) for index, row in enumerate(fresh)]
    places, added = _place(source, numbered, connection)
    values = [
        {column.name: getattr(row, column.name) for column in posts.c}
        | {"serial": serial, "content": places[row.sender, row.digest] if row.state == WAITING else None}
        for serial, row in numbered
    ]
    connection.execute(_INSERT, values)
    waiting = [row for row in fresh if row.state == WAITING]
    _count(waiting, added, connection)
    return Copied(len(fresh), len(waiting), len(added), sum(one.body.size for one in added), len(known))


def _place(
    source: Snapshot, numbered: Sequence[tuple[int, Row[Any]]], connection: Connection
) -> tuple[dict[Key, int], list[New]]:
    """Have the target hold the contents of these posts; return their ids there, and what had to be added."""
    uses: dict[Key, list[tuple[int, Row[Any]]]] = {}
    for serial, row in numbered:
        if row.state == WAITING:
            uses.setdefault((row.sender, row.digest), []).append((serial, row))
    places = contents.known(connection, uses) if uses else {}
    contents.share(connection, {content_id: len(uses[key]) for key, content_id in places.items()})
    added = []
    for key, users in uses.items():
        if key not in places:
            # A post's serial is an id that no other content has: those of contents.new_ids are all larger.
            places[key], row = users[0]
            body = KeptBody(source, row.content, row.digest, row.body_size)
            added.append(New(places[key], key, body, len(users)))
    contents.add(connection, added)
    return places, added


def _count(waiting: Rows, added: Sequence[New], connection: Connection) -> None:
    """The sums follow what was added."""
    octets: Counter[str] = Counter()
    for row in waiting:
        octets[row.sender] += len(row.head)
    for one in added:
        octets[one.key[0]] += one.body.size
    numbers = Counter(row.sender for row in waiting)
    tallies.add_usage(connection, {sender: (number, octets[sender]) for sender, number in numbers.items()})
    tallies.add(connection, Counter((row.recipient, row.sender, row.sender_address) for row in waiting))
