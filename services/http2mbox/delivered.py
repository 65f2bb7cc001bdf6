"""The form in which a message reaches the maildrop: our trace fields in front, forged ones removed. Sans-IO.

protocol.md §7.5
"""

import re
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import NamedTuple

from services.http2mbox.header import fields
from stubmail.address import Address, AddressError, parse_domain
from stubmail.errors import one_line
from stubmail.mailbox import MailboxError, skip_comment

MAX_TEXT = 400  # characters of a warning

# RFC 8601 §2.2: [CFWS] authserv-id; a value is a token or a quoted string (RFC 2045 §5.1).
_HEADER = re.compile(rb"[\x21-\x39\x3b-\x7e]+[ \t]*:|\r?\n")  # RFC 5322 §2.2
_BLANKS = bytes.maketrans(b"();", b"   ")
_OPENING = re.compile(r"\s*\(")
_AUTHSERV_ID = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;()<>@,:\\"/\[\]?=]+))')


class Receipt(NamedTuple):
    """What the puller found out about one message: whence, for whom, from whom, signed with what, and when it came.

    ``post_id`` is 16 octets, ``fingerprint`` that of the sender's certificate, ``at`` has a time zone.
    """

    store_host: str
    recipient: Address
    post_id: bytes
    sender: Address
    fingerprint: str
    at: datetime


def delivered_form(message: bytes, receipt: Receipt) -> bytes:
    """Return ``message`` as it is delivered. Apart from the two new fields and the removed ones no octet changes."""
    return trace_fields(receipt) + without_forged(message, receipt.recipient.domain)


def trace_fields(receipt: Receipt) -> bytes:
    """Return the ``Received`` (RFC 5321 §4.4) and ``Authentication-Results`` (RFC 8601 §2.2) fields.

    One line each, as programs that filter mail by line expect; names and addresses are short enough for the 998
    octets of RFC 5322 §2.1.1. Addresses beyond ASCII stand in UTF-8 (RFC 6532).
    """
    domain = receipt.recipient.domain
    results = (
        f"Authentication-Results: {domain}; x-stub=pass header.from={receipt.sender}"
        f" x-stub.fingerprint={receipt.fingerprint}"
    )
    return f"{_received(receipt)}\r\n{results}\r\n".encode()


def released_form(message: bytes, receipt: Receipt, reason: str, text: str) -> bytes:
    """Return ``message`` as it is delivered by order although it was held for ``reason``, ``text`` in a sentence.

    The warning comes first. What has no header gets an empty line, so that none of it passes for one.
    """
    warning = (
        f"X-Stub-Warning: NOT VERIFIED ({reason}): {one_line(text)[:MAX_TEXT]}; released by hand\r\n"
        f"{_received(receipt)}\r\n"
        f'Authentication-Results: {receipt.recipient.domain}; x-stub=fail reason="{reason}"\r\n'
    )
    gap = b"" if _HEADER.match(message) else b"\r\n"
    return warning.encode() + gap + without_forged(message, receipt.recipient.domain)


def without_forged(message: bytes, domain: str) -> bytes:
    """Return the message without fields that only ``domain`` itself writes.

    These are ``Authentication-Results`` that claim to be its own (RFC 8601 §5), and ``Received`` by it ``with STUB``.
    """
    forged = [
        (start, end) for start, end, value in fields(message, b"Authentication-Results") if _claims(value, domain)
    ]
    forged += [(start, end) for start, end, value in fields(message, b"Received") if _is_arrival(value, domain)]
    if not forged:
        return message
    kept: list[bytes] = []
    position = 0
    for start, end in sorted(forged):
        kept.append(message[position:start])
        position = end
    return b"".join((*kept, message[position:]))


def _received(receipt: Receipt) -> str:
    return (
        f"Received: from {receipt.store_host} by {receipt.recipient.domain} with STUB id {receipt.post_id.hex()}"
        f" for <{receipt.recipient}>; {_date(receipt.at.replace(microsecond=0))}"
    )


_date = lru_cache(maxsize=8)(format_datetime)  # much of what comes comes in the same second


def _is_arrival(value: bytes, domain: str) -> bool:
    """Tell whether a ``Received`` field says that ``domain`` took the message ``with STUB``; comments may intervene."""
    words = value.lower().translate(_BLANKS).split()
    try:
        by = words.index(b"by")
        protocol = words.index(b"with", by)
    except ValueError:
        return False
    name = domain.encode()
    return b"stub" in words[protocol : protocol + 3] and not {name, name + b"."}.isdisjoint(words[by:protocol])


def _claims(value: bytes, domain: str) -> bool:
    text = value.decode("utf-8", "replace")
    position = 0
    while (opening := _OPENING.match(text, position)) is not None:
        try:
            position = skip_comment(text, opening.end())
        except MailboxError:
            return False
    match = _AUTHSERV_ID.match(text, position)
    if match is None:
        return False
    name = match[2] or re.sub(r"\\(.)", r"\1", match[1] or "")
    try:
        return parse_domain(name) == domain
    except AddressError:
        return False
