"""Delivery status notices (RFC 3464): what became of the recipients, and the header, never the body. Sans-IO."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum

from stubmail.address import Address
from stubmail.xtext import XtextError, decode_envid, parse_original_recipient

MAX_HEADER = 16 * 1024  # octets of the message's header that are quoted
MAX_TEXT = 500  # characters of a reason


class Action(StrEnum):
    """What was done for a recipient (RFC 3464 §2.3.3), as far as it is said here; the worst first."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"


_CLASSES = {Action.FAILED: "5", Action.DELAYED: "4", Action.RELAYED: "2"}  # of their status codes, RFC 3463 §2
_SUBJECTS = {
    Action.FAILED: "Your message was not delivered",
    Action.DELAYED: "Your message is delayed",
    Action.RELAYED: "Your message was handed on",
}


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """What became of one recipient, and why.

    ``status``: an enhanced status code (RFC 3463), whose class follows the action: what was given up after an error of
    class 4 counts as class 5. ``original``: the ORCPT parameter as it came (RFC 3461 §4.2), ``remote``: the host that
    said so, ``last_attempt`` and, for what is delayed, ``retry_until``: Unix time, ``fields``: further names and
    values; all of them only where they are known.
    """

    recipient: Address
    status: str
    reason: str
    action: Action = Action.FAILED
    original: str = ""
    remote: str = ""
    last_attempt: float | None = None
    retry_until: float | None = None
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def international(self) -> bool:
        """Whether there is something beyond ASCII in an address."""
        return not str(self.recipient).isascii() or not _original(self.original).isascii()


@dataclass(frozen=True, slots=True)
class Notice:
    """What a notice says besides the recipients.

    ``id`` names it and makes its Message-ID: letters, digits, dots and hyphens, at most 60, not for a sender to guess.
    ``host``: who reports. ``to``: the sender. ``arrival``: when the message was accepted, ``now``: both Unix time.
    ``first``: for each action, the sentence before its recipients; ``last``: the one behind them all. ``header``: the
    message's first octets, of which whole header fields up to MAX_HEADER are quoted. ``utf8``: the message came with
    SMTPUTF8. ``envid``: the ENVID parameter as it came. ``fields``: further names and values about the message.
    """

    id: str
    host: str
    to: Address
    arrival: float
    now: float
    first: Mapping[Action, str]
    last: str
    header: bytes
    utf8: bool = False
    envid: str = ""
    fields: tuple[tuple[str, str], ...] = ()

    def to_wire(self, recipients: Sequence[RecipientStatus]) -> bytes:
        """Return the notice as a multipart/report (RFC 6522) with CRLF line ends."""
        quoted = quotable(self.header)
        international = self.utf8 or not quoted.isascii() or any(each.international for each in recipients)
        boundary = f"=_{self.id}"
        parts = [
            ("text/plain; charset=utf-8", "8bit", self._explanation(recipients).encode()),
            (
                "message/global-delivery-status" if international else "message/delivery-status",
                "8bit" if international else "7bit",
                self._status(recipients, international).encode(),
            ),
            ("message/global-headers" if international else "text/rfc822-headers", "8bit", quoted),
        ]
        worst = next((action for action in Action if any(each.action is action for each in recipients)), Action.FAILED)
        lines = [
            f"From: Mail delivery <mailer-daemon@{self.host}>",
            f"To: <{self.to}>",
            f"Subject: {_SUBJECTS[worst]}",
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

    def _explanation(self, recipients: Sequence[RecipientStatus]) -> str:
        paragraphs = []
        for action in Action:
            group = [each for each in recipients if each.action is action]
            paragraphs += [textwrap.fill(self.first[action], 78)] if group else []
            for each in group:
                reason = f"{_status_code(each)} {_clean(each.reason)}"
                lines = textwrap.wrap(reason, 78, initial_indent="    ", subsequent_indent="    ")
                paragraphs.append("\n".join([f"  {each.recipient}", *lines]))
        return "\n\n".join([*paragraphs, textwrap.fill(self.last, 78), ""]).replace("\n", "\r\n")

    def _status(self, recipients: Sequence[RecipientStatus], international: bool) -> str:
        """The machine-readable part (RFC 3464 §2; RFC 6533 §3 when there is something beyond ASCII)."""
        lines = [f"Original-Envelope-Id: {envid}"] if (envid := _envelope_id(self.envid)) else []
        lines += [
            f"Reporting-MTA: dns; {self.host}",
            *_lines(self.fields),
            f"Arrival-Date: {format_date(self.arrival)}",
        ]
        for each in recipients:
            lines += ["", *_recipient(each, international)]
        return "\r\n".join(lines) + "\r\n"


def quotable(start: bytes) -> bytes:
    """Return the whole header fields in a message's first octets, up to MAX_HEADER."""
    end = start.find(b"\r\n\r\n")
    fields = start[: end + 2] if 0 <= end <= MAX_HEADER else start[:MAX_HEADER]
    return fields[: fields.rfind(b"\r\n") + 2]


def format_date(when: float) -> str:
    """Return Unix time as a header field has it (RFC 5322 §3.3)."""
    return format_datetime(datetime.fromtimestamp(when, UTC))


def _recipient(each: RecipientStatus, international: bool) -> list[str]:
    """The fields about one recipient, in the order of RFC 3464 §2.3."""
    kind = "utf-8" if international else "rfc822"
    reason = _clean(each.reason)
    original = _original(each.original)
    lines = [f"Original-Recipient: {original}"] if original else []
    lines += [f"Final-Recipient: {kind}; {each.recipient}", f"Action: {each.action}", f"Status: {_status_code(each)}"]
    if each.remote:
        lines.append(f"Remote-MTA: dns; {each.remote}")
    if reason:
        reason = reason if international else reason.encode("ascii", "replace").decode()
        lines.append(f"Diagnostic-Code: x-stubmail; {reason}")
    if each.last_attempt is not None:
        lines.append(f"Last-Attempt-Date: {format_date(each.last_attempt)}")
    if each.retry_until is not None and each.action is Action.DELAYED:
        lines.append(f"Will-Retry-Until: {format_date(each.retry_until)}")  # RFC 3464 §2.3.9
    return lines + _lines(each.fields)


def _status_code(each: RecipientStatus) -> str:
    return f"{_CLASSES[each.action]}{each.status[1:] or '.0.0'}"


def _original(parameter: str) -> str:
    """The value of an Original-Recipient field (RFC 3464 §2.3.1); nothing for what is no ORCPT parameter."""
    try:
        return "; ".join(parse_original_recipient(parameter)) if parameter else ""
    except XtextError:
        return ""


def _envelope_id(parameter: str) -> str:
    """The value of an Original-Envelope-Id field (RFC 3464 §2.2.1); nothing for what is no ENVID parameter."""
    try:
        return decode_envid(parameter) if parameter else ""
    except XtextError:
        return ""


def _lines(fields: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name}: {value}" for name, value in fields]


def _clean(text: str) -> str:
    """One line of printable text."""
    return "".join(char if char.isprintable() else " " for char in text)[:MAX_TEXT]
