"""The replies to CAPA, STAT, LIST and UIDL: their lines, with bounds on everything (RFC 1939 §5, §7, RFC 2449 §5)."""

import re
from array import array
from collections.abc import Iterable, Iterator

from commands.popcl.protocol import ProtocolError

MAX_LINE = 2_048  # octets; RFC 2449 §4 allows 512
MAX_CAPABILITIES = 200  # lines
MAX_MESSAGES = 1_000_000  # in a maildrop

_STAT = re.compile(rb"([0-9]{1,10}) ([0-9]{1,19})(?:[ \t].*)?", re.DOTALL)
_SCAN = re.compile(rb"([0-9]{1,10}) +([0-9]{1,19})(?:[ \t].*)?", re.DOTALL)
_UID = re.compile(rb"([0-9]{1,10}) +([^ \t]+)[ \t]*", re.DOTALL)


def lines(pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Cut the pieces of a multi-line reply into lines, at most ``most``. Raises ProtocolError."""
    count, rest = 0, b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            count += 1
            if count > most or len(line) > MAX_LINE:
                raise ProtocolError(f"the server's list has more than {most} lines, or one of over {MAX_LINE} octets")
            yield line.removesuffix(b"\r")
        if len(rest) > MAX_LINE:
            raise ProtocolError(f"the server's list has a line of over {MAX_LINE} octets")


def parse_capabilities(reply: Iterable[bytes]) -> dict[str, tuple[str, ...]]:
    """Return the capabilities with their arguments, in capitals."""
    capabilities: dict[str, tuple[str, ...]] = {}
    for line in reply:
        words = line.decode("ascii", "replace").upper().split(" ")
        capabilities[words[0]] = tuple(filter(None, words[1:]))
    return capabilities


def parse_stat(text: bytes) -> int:
    """Return how many messages STAT announces. Raises ProtocolError."""
    match = _STAT.fullmatch(text)
    if match is None:
        raise ProtocolError("the server's answer to STAT is no number of messages and octets")
    count = int(match[1])
    if count > MAX_MESSAGES:
        raise ProtocolError(f"the server announces {count} messages: more than {MAX_MESSAGES}")
    return count


def parse_sizes(reply: Iterable[bytes], count: int) -> "array[int]":
    """Return the octets of each of ``count`` messages as LIST announces them. Raises ProtocolError."""
    sizes = array("q", [-1]) * count
    for line in reply:
        match = _SCAN.fullmatch(line)
        number, octets = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count or sizes[number - 1] >= 0 or octets > 2**62:
            raise ProtocolError(f"the server lists other messages than the {count} that it announced")
        sizes[number - 1] = octets
    if count and min(sizes) < 0:
        raise ProtocolError(f"the server lists fewer messages than the {count} that it announced")
    return sizes


class Uids:
    """The unique-ids of a maildrop, in one block: a large one costs little more than its characters."""

    def __init__(self, reply: Iterable[bytes], count: int) -> None:
        """Take UIDL's lines. Raises ProtocolError."""
        self._block = bytearray()
        self._places = array("Q", [0]) * count  # offset and length of each, 0 when it was not listed
        for line in reply:
            match = _UID.fullmatch(line)
            number = int(match[1]) if match else 0
            if match is None or not 1 <= number <= count or self._places[number - 1]:
                raise ProtocolError(f"the server lists other unique-ids than those of its {count} messages")
            self._places[number - 1] = len(self._block) << 16 | len(match[2])
            self._block += match[2]

    def __getitem__(self, number: int) -> bytes | None:
        """Return the unique-id of a message, by its number."""
        place = self._places[number - 1]
        start, length = place >> 16, place & 0xFFFF
        return bytes(self._block[start : start + length]) if length else None
