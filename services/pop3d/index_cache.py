"""Indexes lately used, in memory, so that a maildrop which is asked every minute is not even read for its index."""

from collections import OrderedDict
from threading import Lock
from typing import Protocol, TypeVar

from stubmail.mbox.snapshot import Signature

MOST_OCTETS = 64 << 20


class Kept(Protocol):
    """An index of any kind; nobody may change it from now on."""

    @property
    def size(self) -> int:
        """About how many octets it takes."""


K = TypeVar("K")


class IndexCache:
    """Indexes by the path of their file, each good only for the file with the signature that it had; thread-safe.

    ``most``: octets that they may take together; the one unused for longest goes first.
    """

    def __init__(self, most: int = MOST_OCTETS) -> None:
        self._most = most
        self._octets = 0
        self._indexes: OrderedDict[str, tuple[Signature, Kept]] = OrderedDict()
        self._lock = Lock()

    def get(self, path: str, seen: Signature, kind: type[K]) -> K | None:
        """Return the index in the file that has this signature now, if it is known and of this kind."""
        with self._lock:
            known = self._indexes.get(path)
            if known is None or known[0] != seen:
                return None
            self._indexes.move_to_end(path)
            return known[1] if isinstance(known[1], kind) else None

    def put(self, path: str, seen: Signature, index: Kept) -> None:
        """Remember an index."""
        with self._lock:
            self._forget(path)
            self._indexes[path] = seen, index
            self._octets += index.size
            while self._octets > self._most:
                self._forget(next(iter(self._indexes)))

    def _forget(self, path: str) -> None:
        if known := self._indexes.pop(path, None):
            self._octets -= known[1].size
