"""One batch of posts on its way in: fetched into a file, resumed when an answer breaks off, believed in nothing.

The network sets the pace here, so little is held meanwhile but the file: on disk once it is large, without a name.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from stubmail.errors import TemporaryError
from stubmail.frames import CONTENT, LAST, Frame
from stubmail.store_answers import Listed

MAX_TRIES = 10  # answers to one batch; each but the last has to have brought something
MEMORY_SIZE = 2**20  # octets of a batch that are kept in memory rather than on disk, and
SHARED_SIZE = 8 * 2**20  # more of all batches together, whichever comes first
AHEAD = 2**17  # octets read at once, since posts are read one after the other


class _Final(TemporaryError):
    """What asking again at once would not mend."""


class Stopped(_Final):
    """The process is about to end; what is left is fetched by the next one."""


class Fetcher(Protocol):
    """The part of a StoreClient that is needed here."""

    def fetch(self, posts: Sequence[tuple[bytes, int]]) -> Iterator[Frame | bytes]: ...


@dataclass(slots=True)
class _Extent:
    """Where a post's content lies in the file: ``start``, and how many octets are there."""

    start: int
    length: int = 0


class _Shared:
    """Memory that is lent in parts of MEMORY_SIZE, for all threads."""

    def __init__(self, size: int) -> None:
        self._parts = threading.Semaphore(size // MEMORY_SIZE)

    def lend(self) -> bool:
        """Whether there was another part."""
        return self._parts.acquire(blocking=False)

    def take_back(self, parts: int) -> None:
        if parts:
            self._parts.release(parts)


_shared = _Shared(SHARED_SIZE)


class _Store:
    """Octets that are appended and then read: in memory, or all in a file without a name. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._new: list[bytes] = []  # what is not in the file
        self._new_size = 0
        self._borrowed = 0  # parts of the memory that all share
        self._read, self._read_at = b"", 0  # what was read last, and where it begins
        self.size = 0

    def append(self, piece: bytes) -> None:
        self._new.append(piece)
        self._new_size += len(piece)
        self.size += len(piece)
        if self._new_size > MEMORY_SIZE * (1 + self._borrowed):
            if self._file is None:
                if _shared.lend():
                    self._borrowed += 1
                    return
                self._file = tempfile.TemporaryFile(buffering=0, dir=self._directory)  # noqa: SIM115 (closed with us)
            self._write(self._file)

    def read(self, start: int, length: int) -> bytes:
        if self._file is None:
            if len(self._new) > 1:
                self._new = [b"".join(self._new)]
            return self._new[0][start : start + length] if self._new else b""
        if self._new:
            self._write(self._file)
        if length > AHEAD:
            return os.pread(self._file.fileno(), length, start)
        at = start - self._read_at
        if not 0 <= at <= len(self._read) - length:
            self._read, self._read_at, at = os.pread(self._file.fileno(), AHEAD, start), start, 0
        return self._read[at : at + length]

    def close(self) -> None:
        self._release()
        self._read = b""
        if self._file:
            self._file.close()

    def _write(self, file: IO[bytes]) -> None:
        data = memoryview(b"".join(self._new))
        while data:
            data = data[file.write(data) :]
        self._release()

    def _release(self) -> None:
        self._new.clear()
        self._new_size = 0
        _shared.take_back(self._borrowed)
        self._borrowed = 0


class Incoming:
    """The posts of one batch; use it as a context manager, so that the file goes."""

    def __init__(self, directory: Path, stopping: Callable[[], bool]) -> None:
        self._store = _Store(directory)
        self._stopping = stopping
        self._extents: dict[bytes, _Extent] = {}
        self.complete: list[Listed] = []
        self.gone: list[Listed] = []  # withdrawn, expired, or acknowledged by somebody else with our key

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._store.close()

    def content(self, post: Listed) -> bytes:
        """Return the octets of a complete post."""
        extent = self._extents[post.id]
        return self._store.read(extent.start, extent.length)

    def fetch(self, client: Fetcher, posts: Sequence[Listed]) -> None:
        """Fetch these posts, all different; ``complete`` and ``gone`` then tell what came, also when this raises.

        Raises TemporaryError when the answers bring no more, or are not about what was asked; OSError from the disk.
        """
        waiting = list(posts)
        for _ in range(MAX_TRIES):
            before = self._store.size + len(self.gone)
            try:
                self._read_answer(client, waiting)
                return
            except TemporaryError as error:
                if isinstance(error, _Final) or self._store.size + len(self.gone) == before:
                    raise
            settled = {post.id for post in (*self.complete, *self.gone)}
            waiting = [post for post in waiting if post.id not in settled]
        raise TemporaryError("4.4.2", "the store's answers break off again and again")

    def _read_answer(self, client: Fetcher, waiting: Sequence[Listed]) -> None:
        wanted = [(post.id, self._have(post)) for post in waiting]
        events = iter(client.fetch(wanted))
        try:
            for post, (_, have) in zip(waiting, wanted, strict=True):
                frame = next(events, None)
                if not isinstance(frame, Frame) or frame.id != post.id or frame.state == LAST:
                    raise _Final("4.3.0", "the store's answer is not about the posts that were asked for")
                if frame.state != CONTENT:
                    self.gone.append(post)
                    continue
                if frame.offset != have or have + frame.length != post.size:
                    raise _Final("4.3.0", "the post is not as long as the store had said")
                self._read_content(post, frame.length, events)
            last = next(events, None)
            if not isinstance(last, Frame) or last.state != LAST or next(events, None) is not None:
                raise _Final("4.3.0", "the store's answer has more than was asked for")
        finally:
            _end(events)

    def _read_content(self, post: Listed, length: int, events: Iterator[Frame | bytes]) -> None:
        extent = self._extents.setdefault(post.id, _Extent(self._store.size))
        while length:
            piece = next(events, None)
            if not isinstance(piece, bytes) or not 0 < len(piece) <= length:
                raise _Final("4.3.0", "the store's answer is malformed")
            if self._stopping():
                raise Stopped("4.3.2", "stopping")
            self._store.append(piece)
            length -= len(piece)
            extent.length += len(piece)
        self.complete.append(post)

    def _have(self, post: Listed) -> int:
        extent = self._extents.get(post.id)
        return extent.length if extent else 0


def _end(events: Iterable[object]) -> None:
    """End a generator, which may still hold a connection."""
    if isinstance(events, Generator):
        events.close()
