"""Keeping the index of an mbox in a file beside it, and believing it only as far as it can be checked."""

import os
from contextlib import suppress
from pathlib import Path

from services.pop3d.index_cache import IndexCache, spots
from services.pop3d.index_format import Record
from services.pop3d.uidl import Memory, Twins, UidlError, pack, unpack
from stubmail.mbox.content_hash import content_hash
from stubmail.mbox.scan import Index
from stubmail.mbox.snapshot import signature
from stubmail.spool import write_durably

SUFFIX = ".stub-index"
ATTRIBUTE = "user.stubmail.uidl"  # a second place for the memory of twins: on the mbox itself, where that is possible
ATTRIBUTE_SIZE = 2048  # octets; ext4 has 4 KB for all attributes of a file
MEMORY_SIZE = 32_768  # octets
SPOT_SIZE = 65_536  # octets; a larger message is not compared at login, only at RETR


class IndexFile:
    """The index of the mbox at ``path``. A cache: when it cannot be read or written, that costs time only.

    ``cache``: where indexes are kept that were read before.
    """

    def __init__(self, path: Path, cache: IndexCache | None = None) -> None:
        self._mbox = path
        self._cache = cache or IndexCache(0)
        self.path = Path(f"{path}{SUFFIX}")

    def load(self) -> Record | None:
        """Return what is there and undamaged, whether or not it fits the mbox of today."""
        return self._cache.load(self.path, Record)

    def fits(self, record: Record) -> bool:
        """Tell whether the mbox is the one that was indexed, untouched since, as far as a quick look shows."""
        with suppress(OSError):
            descriptor = os.open(self._mbox, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return signature(descriptor) == record.seen and _spot_check(descriptor, record.index)
            finally:
                os.close(descriptor)
        return False

    def save(self, record: Record) -> None:
        """Put a record in the place of the last one."""
        with suppress(OSError):
            write_durably(self.path, record.to_wire())

    def memory(self, record: Record | None) -> dict[bytes, Twins]:
        """Return the memory of twins: from the record, else from the second place, else an empty one."""
        with suppress(OSError, UidlError):
            return unpack(record.memory if record is not None else os.getxattr(self._mbox, ATTRIBUTE))
        return {}

    def keep_memory(self, memory: Memory) -> bytes:
        """Write the memory of twins to its second place, and return it packed for a record.

        That place is small: that a message has gone which had no twin is not kept in it. Writing there changes the
        mbox's time of change.
        """
        short = pack({one: twins for one, twins in memory.items() if twins.highest > 1}, ATTRIBUTE_SIZE)
        with suppress(OSError):
            try:
                kept = os.getxattr(self._mbox, ATTRIBUTE)
            except OSError:
                kept = b""
            if short != kept:
                os.setxattr(self._mbox, ATTRIBUTE, short)
        return pack(memory, MEMORY_SIZE)


def _spot_check(descriptor: int, index: Index) -> bool:
    """Compare the last message and some others with the file."""
    return all(_is_there(descriptor, index, at) for at in spots(len(index)))


def _is_there(descriptor: int, index: Index, at: int) -> bool:
    start, body, end = index.starts[at], index.bodies[at], index.ends[at]
    if os.pread(descriptor, 5, start) != b"From ":
        return False
    return end - body > SPOT_SIZE or content_hash(os.pread(descriptor, end - body, body)) == index.digest(at)
