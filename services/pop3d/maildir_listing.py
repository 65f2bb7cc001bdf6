"""What is known of the messages in a Maildir's cur, and how that is kept in a file.

    magic (16 octets), CRC-32 of all that follows
    head, 8 octets each: inode, size, times of modification and of change of cur when it was listed; 1 when it was
    settled, else 0; how many messages there are; octets of names, of imported ids, and of ids that are gone
    for each message, 8 octets each: size of its file, time of modification, octets on the wire
    names, each with a NUL behind it; imported ids (index in digits, space, id, LF); ids that are gone (each with LF)

All in this machine's byte order: another's has another magic.
"""

import os
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from services.pop3d.checked import Damaged, seal, unseal
from services.pop3d.maildir_names import unique_ids
from stubmail.mbox.snapshot import Signature

_MAGIC = b"stub-listing 1" + (b"l\n" if sys.byteorder == "little" else b"b\n")
_HEAD = struct.Struct("=QQqqQQQQQ")


class ListingError(Damaged):
    """The octets are no listing, or a damaged one."""


@dataclass(frozen=True)
class Listing:
    """The messages in the order of the session; nobody changes it, so that sessions may share one.

    ``seen``: the directory's signature before it was listed, and ``settled`` as in Snapshot: whether it shows any later
    change. ``names``: of the files. ``sizes`` and ``times``: what the files looked like. ``imported``: unique-ids that
    other servers wrote into messages, by index; ``gone``: those of messages that are no more, the latest last.
    """

    seen: Signature
    settled: bool
    names: Sequence[str]
    sizes: "array[int]"
    times: "array[int]"
    octets: "array[int]"
    imported: Mapping[int, str]
    gone: Sequence[str]

    @cached_property
    def total(self) -> int:
        """Octets of all messages."""
        return sum(self.octets)

    @cached_property
    def uids(self) -> list[str]:
        """Their unique-ids."""
        return unique_ids(self.names, self.imported)

    @property
    def size(self) -> int:
        """About how many octets it takes in memory."""
        return 1000 + 160 * len(self.names) + 100 * (len(self.imported) + len(self.gone))

    def is_as_it_was(self, index: int, status: os.stat_result) -> bool:
        """Tell whether a message's file still looks as it did."""
        return (status.st_size, status.st_mtime_ns) == (self.sizes[index], self.times[index])

    def to_wire(self) -> bytes:
        """Return the listing as octets."""
        names = "".join(f"{name}\0" for name in self.names).encode("utf-8", "surrogateescape")
        imported = "".join(f"{at} {uidl}\n" for at, uidl in self.imported.items()).encode()
        gone = "".join(f"{uidl}\n" for uidl in self.gone).encode()
        lengths = len(self.names), len(names), len(imported), len(gone)
        columns = (column.tobytes() for column in (self.sizes, self.times, self.octets))
        body = b"".join((_HEAD.pack(*self.seen, self.settled, *lengths), *columns, names, imported, gone))
        return seal(_MAGIC, body)

    @classmethod
    def from_wire(cls, data: bytes) -> "Listing":
        """Return the listing that ``data`` is. Raises ListingError."""
        body = unseal(_MAGIC, data, _HEAD.size, ListingError)
        inode, size, modified, changed, settled, count, *lengths = _HEAD.unpack_from(body)
        parts: list[bytes] = []
        at = _HEAD.size
        for length in (8 * count, 8 * count, 8 * count, *lengths):
            parts.append(bytes(body[at : at + length]))
            at += length
        if b"/" in parts[3]:
            raise ListingError("the listing names files that are elsewhere")
        names = parts[3].decode("utf-8", "surrogateescape").split("\0")[:-1]
        if at != len(body) or len(names) != count:
            raise ListingError("the listing is not as long as it says")
        imported = (line.split(" ", 1) for line in parts[4].decode().split("\n")[:-1])
        return cls(
            (inode, size, modified, changed),
            bool(settled),
            names,
            array("Q", parts[0]),
            array("q", parts[1]),
            array("Q", parts[2]),
            {int(index): uidl for index, uidl in imported},
            parts[5].decode().split("\n")[:-1],
        )
