"""The parts of a request that carry content: received into a temporary file, checked against what was signed."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.post_manager.http.parts import Parts
from services.post_manager.storage.errors import StorageFull
from stubmail.request import Part, Refusal

IN_MEMORY = 1_048_576  # octets of one request that are kept in memory; more go to a file


@dataclass(frozen=True, slots=True)
class Held:
    """One part that was received into memory; see storage.contents.Body."""

    digest: bytes
    data: bytes

    @property
    def size(self) -> int:
        """Octets."""
        return len(self.data)

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the part from its beginning, in pieces of ``size`` octets but for the last one."""
        if self.size <= size:
            return iter((self.data,) if self.data else ())
        return (self.data[start : start + size] for start in range(0, self.size, size))

    def read(self) -> bytes:
        """Return the part as a whole."""
        return self.data


@dataclass(frozen=True, slots=True)
class Filed:
    """One part that was received into a file; otherwise the same."""

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


Received = Held | Filed


class Upload:
    """Receives the further parts of one request (protocol.md §4.1); what it received is gone when its context ends.

    Its file has no name where the file system can do without: when this process dies, nothing is left of it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._end = 0

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def receive(self, parts: Parts, name: str, expected: Sequence[Part]) -> list[Received]:
        """Read the parts, all called ``name``, and the end of the body.

        Raises Refusal(digest) as soon as a part is not what the request says, and StorageFull.
        """
        if sum(part.size for part in expected) > IN_MEMORY:
            with _full_when_refused():
                self._file = tempfile.TemporaryFile(dir=str(self._directory))  # noqa: SIM115 - closed by __exit__
        received = [self._receive_one(parts, name, index, part) for index, part in enumerate(expected)]
        parts.end()
        if self._file is not None:
            with _full_when_refused():
                self._file.flush()
        return received

    def _receive_one(self, parts: Parts, name: str, index: int, expected: Part) -> Received:
        if parts.begin() != name:
            raise Refusal("malformed", f"further parts must be called {name}")
        size, digest, held = 0, hashlib.sha256(), []
        for piece in parts.pieces():
            size += len(piece)
            if size > expected.size:
                break
            digest.update(piece)
            if self._file is None:
                held.append(piece)
            else:
                with _full_when_refused():
                    self._file.write(piece)
        if size != expected.size or digest.digest() != expected.sha256:
            raise Refusal("digest", f"part {index} is not what the request says")
        if self._file is None:
            return Held(expected.sha256, b"".join(held))
        self._end += size
        return Filed(expected.sha256, size, self._file, self._end - size)


@contextlib.contextmanager
def _full_when_refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFull(f"what was received cannot be written: {error.strerror}") from error
