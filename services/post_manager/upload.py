"""The parts of a request that carry content: received into a temporary file, checked against what was signed."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.post_manager.parts import Parts
from services.post_manager.storage.errors import StorageFull
from stubmail.request import Part, Refusal

IN_MEMORY = 1_048_576  # octets of one request that are kept in memory; more go to a file


@dataclass(frozen=True, slots=True)
class Received:
    """One part that was received; see storage.contents.Body."""

    digest: bytes
    size: int
    _file: IO[bytes]
    _start: int

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the part from its beginning, in pieces of ``size`` octets but for the last one."""
        for position in range(0, self.size, size):
            self._file.seek(self._start + position)
            yield self._file.read(min(size, self.size - position))

    def read(self) -> bytes:
        """Return the part as a whole."""
        return b"".join(self.pieces(IN_MEMORY))


@contextlib.contextmanager
def open_upload(directory: Path) -> Iterator["Upload"]:
    """A place for the further parts of one request (protocol.md §4.1), gone when the context ends.

    The file has no name where the file system can do without: when this process dies, nothing is left of it.
    """
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(directory)) as file:
        yield Upload(file)


class Upload:
    """Receives the further parts of one request, one after the other, into a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._position = 0

    def receive(self, parts: Parts, name: str, expected: Sequence[Part]) -> list[Received]:
        """Read the parts, all called ``name``, and the end of the body.

        Raises Refusal(digest) as soon as a part is not what the request says, and StorageFull.
        """
        received = [self._receive_one(parts, name, index, part) for index, part in enumerate(expected)]
        parts.end()
        with _full_when_refused():
            self._file.flush()
        return received

    def _receive_one(self, parts: Parts, name: str, index: int, expected: Part) -> Received:
        if parts.begin() != name:
            raise Refusal("malformed", f"further parts must be called {name}")
        start, digest = self._position, hashlib.sha256()
        for piece in parts.pieces():
            self._position += len(piece)
            if self._position - start > expected.size:
                break
            digest.update(piece)
            with _full_when_refused():
                self._file.write(piece)
        if self._position - start != expected.size or digest.digest() != expected.sha256:
            raise Refusal("digest", f"part {index} is not what the request says")
        return Received(expected.sha256, expected.size, self._file, start)


@contextlib.contextmanager
def _full_when_refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFull(f"what was received cannot be written: {error.strerror}") from error
