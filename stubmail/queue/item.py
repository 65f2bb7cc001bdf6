"""One accepted message: who sends it to whom, and how that stands in front of it in a file. Sans-IO."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stubmail.address import Address, AddressError

VERSION = 1
POST_ID_SIZE = 16  # octets, protocol.md §1.1
MAX_RECORD_HEAD = 4 * 2**20  # octets of a record before the message
MAX_RECIPIENTS = 2000  # with the longest addresses and parameters they fit into that

_FIRST_LINE = re.compile(rb"stubmail-queue 1 (\d{1,7}) (\d{1,12})\n")
MAX_FIRST_LINE = 40  # octets
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: sorts as it counts, nothing to mistake
_ID_BITS = 75  # 55 of microseconds, enough until the year 3111, and 20 at random
QUEUE_ID = re.compile(rf"[{_ALPHABET}]{{{_ID_BITS // 5}}}")


class ItemError(ValueError):
    """The octets are not a record of the queue; the message says why."""


def new_queue_id(now: float, random: Callable[[int], int]) -> str:
    """Return a queue id, 15 letters and digits that sort by time; ``random(n)`` gives n random bits."""
    number = (int(now * 1_000_000) % 2**55) << 20 | random(20)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(_ID_BITS - 5, -1, -5))


def accepted_at(queue_id: str) -> float:
    """Return the time that a queue id was made from, in Unix time."""
    number = 0
    for letter in queue_id:
        number = number << 5 | _ALPHABET.index(letter)
    return (number >> 20) / 1_000_000


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient; ``post_id`` is chosen when the message is accepted, so that no crash can store it twice.

    ``notify`` and ``original`` are the values of the parameters NOTIFY and ORCPT (RFC 3461 §4), empty without them.
    """

    address: Address
    post_id: bytes
    notify: str = ""
    original: str = ""

    def wants(self, reason: str) -> bool:
        """Whether the sender wants a notice for this reason: SUCCESS, FAILURE or DELAY. If he said nothing: FAILURE."""
        return reason in (self.notify or "FAILURE").split(",")


@dataclass(frozen=True, slots=True)
class Item:
    """A message's envelope, unchanging.

    ``account``: the name in the users file of who sent it. ``accepted``: Unix time. ``mail_from``: the address for
    notices, None for the null sender. ``sender``: the one address in ``From:``. ``utf8``: sent with SMTPUTF8.
    ``eight_bit``: there are octets over 127 in it. ``size``: octets of the message. ``ret`` and ``envid``: the values
    of the parameters RET and ENVID, as they came.
    """

    id: str
    account: str
    accepted: float
    mail_from: Address | None
    sender: Address
    recipients: tuple[Recipient, ...]
    size: int
    utf8: bool = False
    eight_bit: bool = False
    ret: str = ""
    envid: str = ""

    def head_to_wire(self) -> bytes:
        """Return what stands in a file in front of the message's octets."""
        data = {
            "id": self.id,
            "account": self.account,
            "accepted": self.accepted,
            "mail_from": str(self.mail_from) if self.mail_from else "",
            "sender": str(self.sender),
            "recipients": [_entry(recipient) for recipient in self.recipients],
            "utf8": self.utf8,
            "eight_bit": self.eight_bit,
        }
        data |= {name: value for name, value in (("ret", self.ret), ("envid", self.envid)) if value}
        text = json.dumps(data, ensure_ascii=False).encode()
        return b"stubmail-queue %d %d %d\n" % (VERSION, len(text), self.size) + text


def parse_first_line(data: bytes) -> tuple[int, int, int]:
    """Parse the beginning of a record (MAX_FIRST_LINE octets, if there are so many).

    Returns the lengths of the first line, of the envelope and of the message. Raises ItemError.
    """
    match = _FIRST_LINE.match(data)
    if match is None or int(match[1]) > MAX_RECORD_HEAD:
        raise ItemError("this is not the beginning of a record")
    return match.end(), int(match[1]), int(match[2])


def parse_envelope(data: bytes, size: int) -> Item:
    """Parse the envelope of a message of ``size`` octets. Raises ItemError."""
    try:
        members: dict[str, Any] = json.loads(data)
        mail_from = members["mail_from"]
        return Item(
            id=_queue_id(members["id"]),
            account=str(members["account"]),
            accepted=float(members["accepted"]),
            mail_from=Address.parse(mail_from) if mail_from else None,
            sender=Address.parse(members["sender"]),
            recipients=tuple(_recipient(*entry) for entry in members["recipients"]),
            size=size,
            utf8=members["utf8"] is True,
            eight_bit=members["eight_bit"] is True,
            ret=str(members.get("ret", "")),
            envid=str(members.get("envid", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, AddressError) as error:
        raise ItemError(f"this is not the envelope of a message: {error}") from error


def _entry(recipient: Recipient) -> list[str]:
    """A recipient as JSON; what most do not have is left out, as it was when nobody had it."""
    entry = [str(recipient.address), recipient.post_id.hex()]
    return [*entry, recipient.notify, recipient.original] if recipient.notify or recipient.original else entry


def _recipient(address: str, post: str, notify: str = "", original: str = "") -> Recipient:
    return Recipient(Address.parse(address), _post_id(post), str(notify), str(original))


def _queue_id(text: str) -> str:
    if not QUEUE_ID.fullmatch(text):
        raise ValueError(f"{text!r} is not a queue id")
    return text


def _post_id(text: str) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != POST_ID_SIZE:
        raise ValueError(f"a post id has {POST_ID_SIZE} octets")
    return data
