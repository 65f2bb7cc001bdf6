"""One state of a database, read from end to end in bounded memory, while others may go on writing."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Executable, Row, func, select

from services.post_manager.storage import damage
from services.post_manager.storage.contents import CHUNK
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import StorageDamaged, translated
from services.post_manager.storage.schema import SERIAL, chunks, contents, counters, posts, tallies, usage

PAGE = 200  # posts read at once: with their heads, a few MiB at most
_STREAM = 1_000  # rows of a large answer held at once

_POSTS = select(
    *posts.c,
    contents.c.sender.label("content_sender"),
    contents.c.digest.label("digest"),
    contents.c.size.label("body_size"),
).outerjoin(contents, contents.c.id == posts.c.content)
_CHUNK = select(chunks.c.data)
_UNBOUNDED = "SET LOCAL statement_timeout TO 0; SET LOCAL idle_in_transaction_session_timeout TO 0"
_HELD = ", ".join(table.name for table in (posts, contents, chunks, tallies, usage, counters))


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        with translated():
            yield
    except (TypeError, ValueError) as error:  # SQLite returns what stands there, of whatever type
        raise StorageDamaged(f"the database holds something else than it should: {error}") from error


class Snapshot:
    """A connection in one transaction, whose reads raise StorageError of their own accord."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def rows(self, query: Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Row[Any]]:
        """Return an answer that the caller knows to be small."""
        with _readable():
            return self.connection.execute(query, parameters).all()

    def stream(self, query: Executable) -> Iterator[Row[Any]]:
        """Yield an answer of any length, a bounded number of rows in memory."""
        with _readable():
            yield from self.connection.execute(query, execution_options={"yield_per": _STREAM})

    def pages(self, after: int = 0) -> Iterator[Sequence[Row[Any]]]:
        """Yield all posts behind a serial in their order, with the sender, digest and size of their content."""
        while rows := self.rows_after(after):
            yield rows
            after = rows[-1].serial

    def rows_after(self, serial: int) -> Sequence[Row[Any]]:
        """Return one of the ``pages``: the posts that come first behind a serial; none when there are no more."""
        return self.rows(_POSTS.where(posts.c.serial > serial).order_by(posts.c.serial).limit(PAGE))

    def post(self, serial: int) -> Row[Any] | None:
        """Return one post, as ``pages`` does."""
        return next(iter(self.rows(_POSTS.where(posts.c.serial == serial))), None)

    def serial(self) -> int:
        """The serial that was taken last."""
        rows = self.rows(select(counters.c.value).where(counters.c.name == SERIAL))
        if not rows:
            raise StorageDamaged("the counter of serials is missing")
        return int(rows[0].value)

    def count(self) -> tuple[int, int, int]:
        """Return the numbers of posts and of contents, and the octets of these."""
        octets = func.coalesce(func.sum(contents.c.size), 0).label("octets")
        [of_posts] = self.rows(select(func.count().label("number")).select_from(posts))
        [of_contents] = self.rows(select(func.count().label("number"), octets).select_from(contents))
        return int(of_posts.number), int(of_contents.number), int(of_contents.octets)


@dataclass(frozen=True, slots=True)
class KeptBody:
    """A content where it is stored; see storage.contents.Body. Reading it to its end checks it."""

    source: Snapshot
    content: int
    digest: bytes
    size: int

    def pieces(self, _size: int = CHUNK) -> Iterator[bytes]:
        """Yield its chunks. Raises StorageDamaged as soon as they are seen not to be what was stored."""
        digest = hashlib.sha256()
        for number, start in enumerate(range(0, self.size, CHUNK)):
            query = _CHUNK.where(chunks.c.content == self.content, chunks.c.number == number)
            rows = self.source.rows(query)
            wanted = min(CHUNK, self.size - start)
            if not rows:
                raise StorageDamaged(f"chunk {number} of content {self.content} is missing")
            data = bytes(rows[0].data)
            if len(data) != wanted:
                raise StorageDamaged(
                    f"chunk {number} of content {self.content} has {len(data)} octets instead of {wanted}"
                )
            digest.update(data)
            yield data
        if digest.digest() != self.digest:
            raise StorageDamaged(f"content {self.content} is not what was stored: its digest differs")


@contextlib.contextmanager
def snapshot(database: Database) -> Iterator[Snapshot]:
    """One state of a database for as long as the block lasts; others go on writing. Raises StorageError."""
    with database.read() as connection:
        _take_time(connection)
        yield Snapshot(connection)


@contextlib.contextmanager
def file_snapshot(path: Path) -> Iterator[Snapshot]:
    """One state of an SQLite file, in use or not, which is not written. Raises StorageError."""
    engine = damage.reading_engine(path)
    try:
        with translated(), engine.connect() as connection:
            connection.begin()
            try:
                yield Snapshot(connection)
            finally:
                connection.invalidate()  # to end a transaction on a damaged file is one more chance to fail
    finally:
        engine.dispose()


@contextlib.contextmanager
def held(database: Database) -> Iterator[Snapshot]:
    """A database that nobody else can write posts to until the block ends; what the block writes is then committed.

    Those who try are refused, at once or after a while: their stores answer 503. Raises StorageError.
    """
    with database.hold() as connection:
        if _take_time(connection):
            connection.exec_driver_sql(f"LOCK TABLE {_HELD} IN EXCLUSIVE MODE")
        yield Snapshot(connection)


def _take_time(connection: Connection) -> bool:
    """Let a transaction take longer than a request's may; tell whether the database is a server's."""
    server = connection.dialect.name == "postgresql"
    if server:
        connection.exec_driver_sql(_UNBOUNDED)
    return server
