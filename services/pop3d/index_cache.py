"""Indexes lately used, in memory, so that a maildrop which is asked every minute is not even read for its index.

What the files say is believed only where nobody else can have written them.
"""

import os
import random
import stat
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Protocol, Self, TypeVar

from services.pop3d.checked import Damaged
from stubmail.mbox.snapshot import Signature, signature

MOST_OCTETS = 64 << 20
SPOT_CHECKS = 3

_random = random.SystemRandom()


class Kept(Protocol):
    """An index of any kind; nobody may change it from now on."""

    @property
    def size(self) -> int:
        """About how many octets it takes."""

    @classmethod
    def from_wire(cls, data: bytes) -> Self:
        """Return the index that ``data`` is. Raises Damaged."""


K = TypeVar("K", bound=Kept)


class IndexCache:
    """Indexes by the path of their file, each good only for the file with the signature that it had; thread-safe.

    ``most``: octets that they may take together; the one unused for longest goes first.
    """

    def __init__(self, most: int = MOST_OCTETS) -> None:
        self._most = most
        self._octets = 0
        self._indexes: OrderedDict[str, tuple[Signature, Kept]] = OrderedDict()
        self._lock = Lock()

    def load(self, path: Path, kind: type[K]) -> K | None:
        """Return the index in a file of this user's, if there is one, of this kind and not damaged."""
        with suppress(OSError, Damaged):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if not _is_ours(descriptor):
                    return None
                seen = signature(descriptor)
                index = self.get(str(path), seen, kind)
                if index is None:
                    index = kind.from_wire(file.read())
                    self.put(str(path), seen, index)
                return index
        return None

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


def spots(count: int) -> set[int]:
    """Choose which of ``count`` messages are compared with an index: the last one, and some others."""
    return {count - 1, *_random.sample(range(count), min(count, SPOT_CHECKS - 1))} if count else set()


def _is_ours(descriptor: int) -> bool:
    """Tell whether an open file was written by this user, and can be by no other.

    In a directory where others may write, theirs would give messages the ids that they like.
    """
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
