"""Notices to the sender of mail that cannot be delivered (RFC 3464): reasons and header, never the body. Sans-IO."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from stubmail.address import Address
from stubmail.queue import Item, Outcome

MAX_HEADER = 16 * 1024  # octets of the message's header that are quoted
MAX_TEXT = 500  # characters of a reason


@dataclass(frozen=True, slots=True)
class Failure:
    """A recipient who did not get the message, and why."""

    recipient: Address
    outcome: Outcome


def notice_id(item: Item, number: int) -> str:
    """Return the notice's name, the same at every attempt to deliver it."""
    return f"{item.id}.{number}"


def parse_notice_id(text: str) -> tuple[str, int]:
    """Return the queue id and the number of a notice. Raises ValueError."""
    queue_id, _, number = text.partition(".")
    return queue_id, int(number)


def build(item: Item, number: int, failures: Sequence[Failure], host: str, header: bytes, now: float) -> bytes:
    """Return the notice, a multipart/report with CRLF line ends, to be delivered to ``item.mail_from``.

    ``host`` is our name; ``header`` the message's first octets, of which the header fields are quoted.
    """
    quoted = _fields(header)
    international = item.utf8 or not quoted.isascii() or any(not str(f.recipient).isascii() for f in failures)
    boundary = f"=_{item.id}_{number}"
    parts = [
        ("text/plain; charset=utf-8", "8bit", _explanation(item, failures, host).encode()),
        (
            "message/global-delivery-status" if international else "message/delivery-status",
            "8bit" if international else "7bit",
            _status(item, failures, host, international).encode(),
        ),
        ("message/global-headers" if international else "text/rfc822-headers", "8bit", quoted),
    ]
    lines = [
        f"From: Mail delivery <mailer-daemon@{host}>",
        f"To: <{item.mail_from or item.sender}>",
        "Subject: Your message was not delivered",
        f"Date: {_date(now)}",
        f"Message-ID: <{notice_id(item, number).lower()}@{host}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"',
        "",
        "",
    ]
    text = "\r\n".join(lines).encode()
    for media_type, encoding, content in parts:
        head = f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        text += head.encode() + content + b"\r\n"
    return text + f"--{boundary}--\r\n".encode()


def _explanation(item: Item, failures: Sequence[Failure], host: str) -> str:
    when = _date(item.accepted)
    first = f"This is the mail gateway at {host}. Your message of {when} could not be delivered to:"
    last = "Nobody will try again. The header of your message follows; its text does not leave the gateway."
    paragraphs = [textwrap.fill(first, 78)]
    for failure in failures:
        reason = f"{failure.outcome.code} {_clean(failure.outcome.text)}"
        lines = textwrap.wrap(reason, 78, initial_indent="    ", subsequent_indent="    ")
        paragraphs.append("\n".join([f"  {failure.recipient}", *lines]))
    return "\n\n".join([*paragraphs, textwrap.fill(last, 78), ""]).replace("\n", "\r\n")


def _status(item: Item, failures: Sequence[Failure], host: str, international: bool) -> str:
    """The machine-readable part (RFC 3464 §2; RFC 6533 §3 when there are addresses beyond ASCII)."""
    lines = [f"Reporting-MTA: dns; {host}", f"X-Queue-ID: {item.id}", f"Arrival-Date: {_date(item.accepted)}"]
    for failure in failures:
        kind = "utf-8" if international else "rfc822"
        reason = _clean(failure.outcome.text)
        lines += [
            "",
            f"Final-Recipient: {kind}; {failure.recipient}",
            "Action: failed",
            f"Status: 5{failure.outcome.code[1:] or '.0.0'}",
            f"Diagnostic-Code: x-stubmail; {reason if international else reason.encode('ascii', 'replace').decode()}",
        ]
    return "\r\n".join(lines) + "\r\n"


def _fields(start: bytes) -> bytes:
    """The whole header fields in a message's first octets, up to MAX_HEADER."""
    end = start.find(b"\r\n\r\n")
    fields = start[: end + 2] if 0 <= end <= MAX_HEADER else start[:MAX_HEADER]
    return fields[: fields.rfind(b"\r\n") + 2]


def _clean(text: str) -> str:
    """One line of printable text."""
    return "".join(char if char.isprintable() else " " for char in text)[:MAX_TEXT]


def _date(when: float) -> str:
    return format_datetime(datetime.fromtimestamp(when, UTC))
