"""The protected envelope: what is signed and encrypted together with the message (protocol.md §7.1, §7.2). Sans-IO."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from stubmail.address import Address, AddressError

TAG_SIZE = 16  # octets
MIN_TAGS = 8
MAX_TAGS = 4096
MAX_ENVELOPE = 319 + MAX_TAGS * 50  # octets: the longest block that the grammar below admits

_CONTEXT = b"stubmail recipient 1\x00"
_BLOCK = re.compile(
    rb"Stub-Version: 1\r\n"
    rb"Stub-From: ([^\r\n]{3,254})\r\n"
    rb"Stub-Date: (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\r\n"
    rb"((?:Stub-Recipient: [0-9a-f]{32}\r\n){1,%d})\r\n" % MAX_TAGS
)


class EnvelopeError(ValueError):
    """The decrypted text does not begin with a protected envelope; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who sends, when, and to whom: ``tags`` are recipient tags of 16 octets each, ascending, without repetition."""

    sender: Address
    date: datetime
    tags: tuple[bytes, ...]

    def wrap(self, message: bytes) -> bytes:
        """Return the text to sign and encrypt: header block, empty line, the message's octets."""
        stamp = self.date.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
        lines = [f"Stub-Version: 1\r\nStub-From: {self.sender}\r\nStub-Date: {stamp}Z\r\n"]
        lines += [f"Stub-Recipient: {tag.hex()}\r\n" for tag in self.tags]
        return ("".join(lines) + "\r\n").encode() + message


def unwrap(data: bytes) -> tuple[Envelope, bytes]:
    """Split a decrypted text into its envelope and the message. Raises EnvelopeError."""
    match = _BLOCK.match(data)
    if match is None:
        raise EnvelopeError("the text does not begin with a protected envelope")
    try:
        sender = Address.parse(match[1].decode())
        date = datetime.fromisoformat(match[2].decode())
    except (AddressError, ValueError) as error:
        raise EnvelopeError(f"the protected envelope is malformed: {error}") from error
    octets = bytes.fromhex(match[3].replace(b"Stub-Recipient: ", b"").decode())
    tags = tuple(octets[at : at + TAG_SIZE] for at in range(0, len(octets), TAG_SIZE))
    if list(tags) != sorted(set(tags)):
        raise EnvelopeError("the recipient tags are not in ascending order")
    return Envelope(sender, date, tags), data[match.end() :]


def tag(post_id: bytes, fingerprint: str, address: Address) -> bytes:
    """Return the tag that names one recipient to himself alone (protocol.md §7.2)."""
    return sha256(_CONTEXT + post_id + bytes.fromhex(fingerprint) + address.key.encode()).digest()[:TAG_SIZE]


def fill_up(tags: Iterable[bytes], random: Callable[[int], bytes]) -> tuple[bytes, ...]:
    """Return the tags in order, with random ones added so that their number does not tell that of the recipients.

    ``random(n)`` returns n random octets, as ``secrets.token_bytes`` does. Raises ValueError for more than 4,096 tags.
    """
    chosen = set(tags)
    if len(chosen) > MAX_TAGS:
        raise ValueError(f"{len(chosen)} recipients; one post can name {MAX_TAGS}")
    wanted = MIN_TAGS
    while wanted < len(chosen):
        wanted *= 2
    while len(chosen) < wanted:
        chosen.add(random(TAG_SIZE))
    return tuple(sorted(chosen))
