"""The index that stands beside an mbox, as octets: where its messages are, their hashes, sizes and ids.

    magic (16 octets), CRC-32 of all that follows
    head, 8 octets each: the mbox's inode, size, times of modification and of change when it was indexed; 1 when it was
    settled, else 0; how many messages, twins' numbers, octets of X-UIDL fields, and octets of memory there are
    starts, bodies, ends, octets (8 octets a message each), hashes (32 each)
    twins' numbers (index and number, 4 octets each), X-UIDL fields (index in digits, space, value, LF)
    the memory of twins (uidl.pack)

All in this machine's byte order: another's has another magic.
"""

import struct
import sys
from dataclasses import dataclass, field

from services.pop3d.checked import Damaged, seal, unseal
from services.pop3d.uidl import HASH_SIZE, imported_hash, may_be_imported
from stubmail.mbox.content_hash import DIGEST_SIZE
from stubmail.mbox.scan import Index
from stubmail.mbox.snapshot import Signature

_MAGIC = b"stub-index 4 " + (b"le\n" if sys.byteorder == "little" else b"be\n")
_HEAD = struct.Struct("=QQqqQQQQQ")
_NUMBER = struct.Struct("=II")


class RecordError(Damaged):
    """The octets are no index, or a damaged one."""


@dataclass(frozen=True, slots=True)
class Record:
    """All that is kept of an mbox.

    ``seen``: its signature, or one that no file has when the rest must not be used. ``numbers``: see uidl.assign.
    ``memory``: packed, see uidl. ``settled``: see Snapshot.
    """

    seen: Signature
    index: Index
    numbers: dict[int, int]
    memory: bytes
    settled: bool = False
    total: int = field(init=False)  # octets of all messages

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", sum(self.index.octets))

    def imported(self, index: int) -> str:
        """The unique-id that another server gave a message, if that may be used."""
        uidl = self.index.uidls.get(index, "")
        return uidl if may_be_imported(uidl) else ""

    def hash(self, index: int) -> bytes:
        """The hash by which a message's unique-id begins: of what stays when other programs mark the message."""
        if imported := self.imported(index):
            return imported_hash(imported)
        return bytes(self.index.digests[index * DIGEST_SIZE : index * DIGEST_SIZE + HASH_SIZE])

    @property
    def size(self) -> int:
        """About how many octets it takes, in memory as on disk."""
        return (
            (4 * 8 + DIGEST_SIZE) * len(self.index)
            + 100 * (len(self.numbers) + len(self.index.uidls))
            + len(self.memory)
            + 1000
        )

    def hashes(self) -> list[bytes]:
        """All of them, in order."""
        digests = bytes(self.index.digests)
        hashes = [digests[at : at + HASH_SIZE] for at in range(0, len(digests), DIGEST_SIZE)]
        for index in self.index.uidls:
            hashes[index] = self.hash(index)
        return hashes

    def to_wire(self) -> bytes:
        """Return the record as octets."""
        index = self.index
        uidls = "".join(f"{at} {uidl}\n" for at, uidl in index.uidls.items()).encode()
        body = b"".join(
            (
                _HEAD.pack(*self.seen, self.settled, len(index), len(self.numbers), len(uidls), len(self.memory)),
                *(numbers.tobytes() for numbers in (index.starts, index.bodies, index.ends, index.octets)),
                index.digests,
                *(_NUMBER.pack(*item) for item in self.numbers.items()),
                uidls,
                self.memory,
            )
        )
        return seal(_MAGIC, body)

    @classmethod
    def from_wire(cls, data: bytes) -> "Record":
        """Return the record that ``data`` is. Raises RecordError."""
        body = unseal(_MAGIC, data, _HEAD.size, RecordError)
        *seen, settled, messages, numbers, uidls, memory = _HEAD.unpack_from(body)
        lengths = [8 * messages] * 4 + [DIGEST_SIZE * messages, _NUMBER.size * numbers, uidls, memory]
        if _HEAD.size + sum(lengths) != len(body):
            raise RecordError("the index is not as long as it says")
        parts: list[memoryview] = []
        at = _HEAD.size
        for length in lengths:
            parts.append(body[at : at + length])
            at += length
        index = Index()
        for column, part in zip((index.starts, index.bodies, index.ends, index.octets), parts, strict=False):
            column.frombytes(part)
        index.digests += parts[4]
        for line in bytes(parts[6]).decode().split("\n")[:-1]:
            at_text, _, uidl = line.partition(" ")
            index.uidls[int(at_text)] = uidl
        index.size = seen[1]
        twins = dict(_NUMBER.iter_unpack(parts[5]))
        return cls((seen[0], seen[1], seen[2], seen[3]), index, twins, bytes(parts[7]), bool(settled))


def without(index: Index, gone: set[int]) -> Index:
    """Return the index of the mbox after the messages at ``gone`` have been cut out of it, with their empty lines."""
    rest = Index()
    removed = 0
    for at in range(len(index)):
        if at in gone:
            removed += index.after(at) - index.starts[at]
            continue
        if uidl := index.uidls.get(at):
            rest.uidls[len(rest)] = uidl
        rest.starts.append(index.starts[at] - removed)
        rest.bodies.append(index.bodies[at] - removed)
        rest.ends.append(index.ends[at] - removed)
        rest.octets.append(index.octets[at])
        rest.digests += index.digest(at)
    rest.size = index.size - removed
    return rest
