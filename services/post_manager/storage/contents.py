"""The bodies of posts: cut into chunks, stored once for all posts that share them, counted by reference."""

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, bindparam, select, update

from services.post_manager.storage.errors import Conflict
from services.post_manager.storage.schema import chunks, contents
from services.post_manager.storage.statements import fetch, insert, run

CHUNK = 262_144  # octets of every chunk but a content's last one
BATCH = 1_048_576  # octets handed to the database, or taken from it, in one statement


Key = tuple[str, bytes]  # whose it is, a fingerprint, and its SHA-256

# Made once: to put a statement together costs more than to run it.
# A join: for a row's value IN such a list, SQLite reads the whole table.
_KNOWN = "WITH k (s, d) AS (VALUES {}) SELECT sender, digest, id FROM k JOIN contents ON sender = s AND digest = d"
_ADD = insert(contents, "id", "sender", "digest", "size", "refs")
_ADD_CHUNK = insert(chunks, "content", "number", "data")
_SHARE = (
    update(contents).where(contents.c.id == bindparam("content_id")).values(refs=contents.c.refs + bindparam("more"))
)
_SET_REFS = update(contents).where(contents.c.id == bindparam("content_id")).values(refs=bindparam("left"))
_USED = "SELECT id, sender, size, refs FROM contents WHERE id IN ({}) ORDER BY id"
_DELETE_CHUNKS = "DELETE FROM chunks WHERE content IN ({})"
_DELETE = "DELETE FROM contents WHERE id IN ({})"
_READ = select(chunks.c.data).where(chunks.c.content == bindparam("content"), chunks.c.number == bindparam("number"))
_READ_FIRST = "SELECT content, data FROM chunks WHERE content IN ({}) AND number = 0"


class Body(Protocol):
    """A body that was uploaded and whose digest was found right; it may be larger than memory."""

    @property
    def digest(self) -> bytes:
        """Its SHA-256, 32 octets."""

    @property
    def size(self) -> int:
        """Octets."""

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield it from the beginning, in pieces of ``size`` octets but for the last one."""


@dataclass(frozen=True, slots=True)
class New:
    """A body to store under an id of its own, which ``refs`` posts use."""

    id: int
    key: Key
    body: Body
    refs: int


def new_ids(now: int, number: int) -> range:
    """Make up the ids of contents: in a row, and near those of the same time; a database puts them side by side.

    They are random otherwise: who writes a body has to wait for nobody. One that is taken already is a Conflict.
    """
    first = now << 30 | secrets.randbits(30)
    return range(first, first + number)


def known(connection: Connection, keys: Iterable[Key]) -> dict[Key, int]:
    """Return the ids of those contents that are stored already."""
    return {(sender, digest): content_id for sender, digest, content_id in fetch(connection, _KNOWN, keys)}


def add(connection: Connection, new: Sequence[New]) -> None:
    """Store bodies. Constant memory for any size."""
    run(connection, _ADD, [(one.id, *one.key, one.body.size, one.refs) for one in new])
    pieces: list[tuple[int, int, bytes]] = []
    waiting = 0
    for one in new:
        for number, data in enumerate(one.body.pieces(CHUNK)):
            pieces.append((one.id, number, data))
            waiting += len(data)
            if waiting >= BATCH:
                run(connection, _ADD_CHUNK, pieces)
                pieces, waiting = [], 0
    run(connection, _ADD_CHUNK, pieces)


def share(connection: Connection, uses: Mapping[int, int]) -> None:
    """Have more posts use stored bodies, as many as ``uses`` says by id. Raises Conflict when one was deleted."""
    rows = [{"content_id": content_id, "more": more} for content_id, more in sorted(uses.items())]
    if rows and connection.execute(_SHARE, rows).rowcount != len(rows):
        raise Conflict


def release(connection: Connection, uses: Mapping[int, int]) -> Counter[str]:
    """Take away references, as many as ``uses`` says by content id; delete what nobody uses any more.

    Returns the octets freed, by sender.
    """
    freed: Counter[str] = Counter()
    unused, kept = [], []
    for content_id, sender, size, refs in fetch(connection, _USED, [(one,) for one in sorted(uses)], lock=True):
        if refs <= uses[content_id]:
            unused.append((content_id,))
            freed[sender] += size
        else:
            kept.append({"content_id": content_id, "left": refs - uses[content_id]})
    run(connection, _DELETE_CHUNKS, unused)
    run(connection, _DELETE, unused)
    if kept:
        connection.execute(_SET_REFS, kept)
    return freed


def read_chunk(connection: Connection, content_id: int, number: int) -> bytes | None:
    """Return one chunk; None when the content is no longer there, or not that long."""
    data = connection.execute(_READ, {"content": content_id, "number": number}).scalar_one_or_none()
    return None if data is None else bytes(data)


def read_first_chunks(connection: Connection, content_ids: Sequence[int]) -> dict[int, bytes]:
    """Return the first chunk of each of these contents, by id: the whole content when it is no larger than CHUNK.

    The caller bounds how many octets that is.
    """
    return dict(fetch(connection, _READ_FIRST, ((content_id,) for content_id in content_ids)))
