"""The answer to a fetch: frames with the posts' content, streamed in constant memory (protocol.md §5.4)."""

from collections.abc import Iterator, Sequence

from services.post_manager.storage import contents, mailbox
from services.post_manager.storage.contents import CHUNK
from services.post_manager.storage.database import Database
from services.post_manager.storage.mailbox import Stored
from stubmail.frames import ABSENT, CONTENT, LAST, WITHDRAWN, Frame

LOOK_UP = 100  # posts looked up at once
BATCH = CHUNK  # octets of small bodies read at once, as many as one of them may have: all threads may do so at a time
PIECE = 65_536  # small frames are put together until they have so many octets

Wanted = tuple[bytes, int]  # a post id, and the offset to begin at


class ContentGone(Exception):
    """A post was deleted while it was being sent: the answer ends without its end frame."""


def answer(database: Database, recipient: str, wanted: Sequence[Wanted]) -> Iterator[bytes]:
    """Yield the octets of the answer, in pieces of PIECE to a few times CHUNK octets.

    Raises StorageError or ContentGone when it cannot be completed.
    """
    buffer = bytearray()
    for piece in _octets(database, recipient, wanted):
        buffer += piece
        if len(buffer) >= PIECE:
            yield bytes(buffer)
            buffer.clear()
    buffer += Frame(bytes(16), LAST).to_wire()
    yield bytes(buffer)


def _octets(database: Database, recipient: str, wanted: Sequence[Wanted]) -> Iterator[bytes]:
    for start in range(0, len(wanted), LOOK_UP):
        asked = wanted[start : start + LOOK_UP]
        found = mailbox.look_up(database, recipient, [post_id for post_id, _ in asked])
        for group, bodies in _with_small_bodies(database, asked, found):
            for post_id, offset in group:
                yield from _frame(database, post_id, offset, found, bodies)


def _with_small_bodies(
    database: Database, asked: Sequence[Wanted], found: dict[bytes, Stored | None]
) -> Iterator[tuple[list[Wanted], dict[int, bytes]]]:
    """Group posts so that the small bodies of each group can be read at once; a large body is not read yet."""
    group: list[Wanted] = []
    sizes: dict[int, int] = {}
    for item in asked:
        post = found.get(item[0])
        if post is not None and post.body_size <= CHUNK:
            if sum(sizes.values()) + post.body_size > BATCH:
                yield group, _read_small(database, sizes)
                group, sizes = [], {}
            sizes[post.content] = post.body_size
        group.append(item)
    yield group, _read_small(database, sizes)


def _read_small(database: Database, sizes: dict[int, int]) -> dict[int, bytes]:
    if not sizes:
        return {}
    with database.read() as connection:
        return contents.read_first_chunks(connection, list(sizes))


def _frame(
    database: Database, post_id: bytes, offset: int, found: dict[bytes, Stored | None], bodies: dict[int, bytes]
) -> Iterator[bytes]:
    if (post := found.get(post_id)) is None:
        yield Frame(post_id, WITHDRAWN if post_id in found else ABSENT).to_wire()
        return
    size = len(post.head) + post.body_size
    offset = min(offset, size)
    position = max(0, offset - len(post.head))  # in the body
    chunk: bytes | None = b""
    if position < post.body_size:
        small = post.body_size <= CHUNK
        chunk = bodies.get(post.content) if small else _chunk(database, post, position // CHUNK)
    if chunk is None:  # acknowledged since it was looked up
        yield Frame(post_id, ABSENT).to_wire()
        return
    yield Frame(post_id, CONTENT, offset, size - offset).to_wire()
    yield post.head[offset:]
    yield chunk[position % CHUNK :]
    for number in range(position // CHUNK + 1, -(-post.body_size // CHUNK)):
        if (chunk := _chunk(database, post, number)) is None:
            raise ContentGone
        yield chunk


def _chunk(database: Database, post: Stored, number: int) -> bytes | None:
    """Each chunk is a read of its own: a slow client must not keep a state of the database alive."""
    with database.read() as connection:
        return contents.read_chunk(connection, post.content, number)
