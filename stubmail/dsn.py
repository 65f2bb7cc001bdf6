"""Delivery status notices (RFC 3464): who did not get a message, why, and its header, never its body. Sans-IO."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from stubmail.address import Address

MAX_HEADER = 16 * 1024  # octets of the message's header that are quoted
MAX_TEXT = 500  # characters of a reason


@dataclass(frozen=True, slots=True)
class Failure:
    """A recipient who did not get the message, and why.

    ``status``: an enhanced status code (RFC 3463); one of class 4 was given up and counts as class 5. ``original``:
    the ORCPT parameter as it came (RFC 3461 §4.2), ``remote``: the host that said so, ``last_attempt``: Unix time,
    ``fields``: further names and values; all of them only where they are known.
    """

    recipient: Address
    status: str
    reason: str
    original: str = ""
    remote: str = ""
    last_attempt: float | None = None
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """What a notice says besides the failures.

    ``id`` names it and makes its Message-ID: letters, digits, dots and hyphens, at most 60, not for a sender to guess.
    ``host``: who reports. ``to``: the sender. ``arrival``: when the message was accepted, ``now``: both Unix time.
    ``first`` and ``last``: the sentences before and behind the recipients. ``header``: the message's first octets, of
    which whole header fields up to MAX_HEADER are quoted. ``utf8``: the message came with SMTPUTF8.
    ``fields``: further names and values about the message as a whole.
    """

    id: str
    host: str
    to: Address
    arrival: float
    now: float
    first: str
    last: str
    header: bytes
    utf8: bool = False
    fields: tuple[tuple[str, str], ...] = ()

    def to_wire(self, failures: Sequence[Failure]) -> bytes:
        """Return the notice as a multipart/report (RFC 6522) with CRLF line ends."""
        quoted = quotable(self.header)
        international = self.utf8 or not quoted.isascii() or any(not str(f.recipient).isascii() for f in failures)
        boundary = f"=_{self.id}"
        parts = [
            ("text/plain; charset=utf-8", "8bit", self._explanation(failures).encode()),
            (
                "message/global-delivery-status" if international else "message/delivery-status",
                "8bit" if international else "7bit",
                self._status(failures, international).encode(),
            ),
            ("message/global-headers" if international else "text/rfc822-headers", "8bit", quoted),
        ]
        lines = [
            f"From: Mail delivery <mailer-daemon@{self.host}>",
            f"To: <{self.to}>",
            "Subject: Your message was not delivered",
            f"Date: {format_date(self.now)}",
            f"Message-ID: <{self.id.lower()}@{self.host}>",
            "Auto-Submitted: auto-replied",  # RFC 3834 §5
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

    def _explanation(self, failures: Sequence[Failure]) -> str:
        paragraphs = [textwrap.fill(self.first, 78)]
        for failure in failures:
            reason = f"{failure.status} {_clean(failure.reason)}"
            lines = textwrap.wrap(reason, 78, initial_indent="    ", subsequent_indent="    ")
            paragraphs.append("\n".join([f"  {failure.recipient}", *lines]))
        return "\n\n".join([*paragraphs, textwrap.fill(self.last, 78), ""]).replace("\n", "\r\n")

    def _status(self, failures: Sequence[Failure], international: bool) -> str:
        """The machine-readable part (RFC 3464 §2; RFC 6533 §3 when there is something beyond ASCII)."""
        lines = [f"Reporting-MTA: dns; {self.host}", *_lines(self.fields), f"Arrival-Date: {format_date(self.arrival)}"]
        for failure in failures:
            lines += ["", *_recipient(failure, international)]
        return "\r\n".join(lines) + "\r\n"


def quotable(start: bytes) -> bytes:
    """Return the whole header fields in a message's first octets, up to MAX_HEADER."""
    end = start.find(b"\r\n\r\n")
    fields = start[: end + 2] if 0 <= end <= MAX_HEADER else start[:MAX_HEADER]
    return fields[: fields.rfind(b"\r\n") + 2]


def format_date(when: float) -> str:
    """Return Unix time as a header field has it (RFC 5322 §3.3)."""
    return format_datetime(datetime.fromtimestamp(when, UTC))


def _recipient(failure: Failure, international: bool) -> list[str]:
    """The fields about one recipient, in the order of RFC 3464 §2.3."""
    kind = "utf-8" if international else "rfc822"
    reason = _clean(failure.reason)
    lines = [f"Original-Recipient: {failure.original}"] if failure.original else []
    lines += [
        f"Final-Recipient: {kind}; {failure.recipient}",
        "Action: failed",
        f"Status: 5{failure.status[1:] or '.0.0'}",
    ]
    if failure.remote:
        lines.append(f"Remote-MTA: dns; {failure.remote}")
    lines.append(
        f"Diagnostic-Code: x-stubmail; {reason if international else reason.encode('ascii', 'replace').decode()}"
    )
    if failure.last_attempt is not None:
        lines.append(f"Last-Attempt-Date: {format_date(failure.last_attempt)}")
    return lines + _lines(failure.fields)


def _lines(fields: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name}: {value}" for name, value in fields]


def _clean(text: str) -> str:
    """One line of printable text."""
    return "".join(char if char.isprintable() else " " for char in text)[:MAX_TEXT]
