"""Unique-ids of messages in an mbox: a hash, and a number where hashes are the same (RFC 1939 §7).

An id must be unique, stay the same while the message is there, whatever comes and goes around it, and never come back
for another message. The hash of the content does most of that without any memory; header fields in which programs that
share the file keep notes, such as Status, are left out (stubmail.mbox.content_hash). What is left are twins, messages
with the same content: the second is number 2, the third number 3, in the order of the file. A number, once given, stays
with its message and is never given again; so that this holds when the first of two twins has gone, the numbers that the
order alone does not tell are remembered. When that memory is lost, numbers go by the order again: an id may then
pass from one message to its twin, and nobody misses a message, since both are the same but for such notes.

A message with an X-UIDL field has the id that another server gave it. Its hash is that of the field, and only number 1
is called what the field says: anybody may send messages with the same field, or write an id of ours into it.
"""

import hashlib
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

HASH_SIZE = 16  # octets; an id has twice as many characters, and a number from the second twin on

_OURS = re.compile(r"[0-9a-f]{32}(\.[0-9]+)?")
_RECORD = struct.Struct(">16sII")  # hash, highest number, how many numbers of 4 octets follow


class UidlError(Exception):
    """The octets are no memory of twins."""


@dataclass(frozen=True, slots=True)
class Twins:
    """The messages of one hash: the numbers of those that are there, in order, and the highest ever given."""

    present: tuple[int, ...]
    highest: int

    @property
    def plain(self) -> bool:
        """Whether the order alone tells as much."""
        return self.present == tuple(range(1, self.highest + 1))


Memory = Mapping[bytes, Twins]


def imported_hash(uidl: str) -> bytes:
    """Return the hash for what an X-UIDL field says."""
    return hashlib.blake2b(uidl.encode(), digest_size=HASH_SIZE, person=b"X-UIDL").digest()


def may_be_imported(uidl: str) -> bool:
    """Tell whether it cannot be taken for an id that is given here."""
    return not _OURS.fullmatch(uidl)


def format_uid(one: bytes, number: int, imported: str = "") -> str:
    """Return the unique-id of message ``number`` of those with this hash; ``imported`` is its X-UIDL field."""
    if imported and number == 1:
        return imported
    return f"{one.hex()}.{number}" if number > 1 else one.hex()


def assign(hashes: Sequence[bytes], memory: Memory) -> tuple[dict[int, int], dict[bytes, Twins]]:
    """Number the messages whose hashes these are, in the order of the file.

    Returns the numbers by index, number 1 left out, and the memory from now on. Messages that came are taken to be the
    last of their twins, as deliveries append; which of several twins others have removed cannot be told.
    """
    places = _places(hashes, memory)
    numbers: dict[int, int] = {}
    after = {one: twins for one, twins in memory.items() if one not in places}
    for one, indexes in places.items():
        twins = memory.get(one, Twins((), 0))
        known = twins.present[-len(indexes) :]
        new = range(twins.highest + 1, twins.highest + 1 + len(indexes) - len(known))
        present = (*known, *new)
        numbers.update((index, number) for index, number in zip(indexes, present, strict=True) if number != 1)
        _put(after, one, Twins(present, max(twins.highest, present[-1])))
    return numbers, after


def _places(hashes: Sequence[bytes], memory: Memory) -> dict[bytes, list[int]]:
    """Return where the messages are that have twins here or in the memory; of all others there is nothing to say."""
    once = set(hashes)
    if len(once) == len(hashes) and once.isdisjoint(memory):  # as in nearly every mbox, which may be a large one
        return {}
    several = {one for one, count in Counter(hashes).items() if count > 1 or one in memory}
    places: dict[bytes, list[int]] = {}
    for index, one in enumerate(hashes):
        if one in several:
            places.setdefault(one, []).append(index)
    return places


def remember(
    hashes: Sequence[bytes], numbers: Mapping[int, int], gone: Iterable[int], memory: Memory
) -> dict[bytes, Twins]:
    """Return the memory after the messages at ``gone`` have been removed from those that ``assign`` numbered.

    Hashes of which all messages have gone stay in it, lest their ids come back; the latest are last.
    """
    gone = set(gone)
    present: dict[bytes, list[int]] = {hashes[index]: [] for index in gone}
    highest = dict.fromkeys(present, 0)
    for index, one in enumerate(hashes):
        if one in present:
            number = numbers.get(index, 1)
            highest[one] = max(highest[one], number)
            if index not in gone:
                present[one].append(number)
    after = {one: twins for one, twins in memory.items() if one not in present}
    for one, left in present.items():
        before = memory[one].highest if one in memory else 0
        _put(after, one, Twins(tuple(left), max(highest[one], before)))
    return after


def _put(memory: dict[bytes, Twins], one: bytes, twins: Twins) -> None:
    if not twins.plain:
        memory[one] = twins


def pack(memory: Memory, size: int) -> bytes:
    """Return as much of the memory as ``size`` octets hold: hashes with messages first, then the latest."""
    items = list(memory.items())[::-1]
    items.sort(key=lambda item: not item[1].present)
    parts: list[bytes] = []
    for one, twins in items:
        part = _RECORD.pack(one, twins.highest, len(twins.present)) + struct.pack(
            f">{len(twins.present)}I", *twins.present
        )
        size -= len(part)
        if size < 0:
            break
        parts.append(part)
    return b"".join(reversed(parts))


def unpack(data: bytes) -> dict[bytes, Twins]:
    """Return the memory that was packed. Raises UidlError."""
    memory: dict[bytes, Twins] = {}
    at = 0
    while at < len(data):
        if at + _RECORD.size > len(data):
            raise UidlError("the memory of twins is cut short")
        one, highest, count = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + 4 * count > len(data):
            raise UidlError("the memory of twins is cut short")
        present = struct.unpack_from(f">{count}I", data, at)
        at += 4 * count
        if any(later <= earlier for earlier, later in zip((0, *present), present, strict=False)) or present[-1:] > (
            highest,
        ):
            raise UidlError("the numbers of twins are not ascending")
        memory[one] = Twins(present, highest)
    return memory
