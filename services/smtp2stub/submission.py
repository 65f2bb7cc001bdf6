"""What a submission server does to a message's header (RFC 6409 §5, §8), and what it refuses. Sans-IO."""

import re
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from stubmail.address import Address
from stubmail.errors import PermanentError
from stubmail.mailbox import MailboxError, parse_mailbox

MAX_HEADER = 256 * 1024  # octets
MAX_HOPS = 100  # Received fields, RFC 5321 §6.3

_NAME = re.compile(rb"[!-9;-~]+")  # RFC 5322 §2.2
_HIDDEN = (b"bcc", b"resent-bcc")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a message came from, for its Received field: the client's name for itself and its IP address (anything
    else when it has none), our host name, ``protocol`` (RFC 3848: ESMTPSA and the like) and the queue id."""

    helo: str
    peer: str
    host: str
    protocol: str
    queue_id: str

    def field(self, when: datetime) -> bytes:
        """Return the Received field (RFC 5321 §4.4), folded. What the client says of itself cannot break out of it."""
        helo = self.helo if _HOST.fullmatch(self.helo) else "unknown"
        peer = f" ([IPv6:{self.peer}])" if ":" in self.peer else f" ([{self.peer}])" if "." in self.peer else ""
        return (
            f"Received: from {helo}{peer}\r\n"
            f"\tby {self.host} with {self.protocol} id {self.queue_id};\r\n"
            f"\t{format_datetime(when)}\r\n"
        ).encode()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A header ready to go, with its empty line, and the one address of its ``From:``."""

    header: bytes
    sender: Address


def split_header(start: bytes) -> tuple[bytes, int]:
    """Return a message's header fields and the offset of its body, given its first octets.

    ``start`` must hold MAX_HEADER + 4 octets, or the whole message. Raises PermanentError 5.6.0.
    """
    if start.startswith(b"\r\n"):
        return b"", 2
    end = start.find(b"\r\n\r\n")
    if end > MAX_HEADER or (end < 0 and len(start) > MAX_HEADER):
        raise PermanentError("5.6.0", f"the header is longer than {MAX_HEADER} octets")
    if end < 0:
        return start, len(start)
    return start[: end + 2], end + 4


def prepare(fields: bytes, trace: Trace, when: datetime, message_id: str, *, utf8: bool) -> Prepared:
    """Check a header's fields and complete them.

    Received is put in front; Date and Message-ID are added when there is none, the latter as ``message_id``@sender's
    domain; Bcc is taken away. ``utf8``: the client said SMTPUTF8. Raises PermanentError 5.6.0 and 5.4.6.
    """
    found = parse_fields(fields)
    if not fields.isascii():
        _check_utf8(fields, utf8)
    sender = _author([field for name, field in found if name == b"from"])
    names = [name for name, _ in found]
    if names.count(b"received") > MAX_HOPS:
        raise PermanentError("5.4.6", "the message has been through too many servers; it goes in circles")
    kept = [field for name, field in found if name not in _HIDDEN]
    if b"message-id" not in names:
        kept.append(f"Message-ID: <{message_id}@{sender.domain}>\r\n".encode())
    if b"date" not in names:
        kept.append(f"Date: {format_datetime(when)}\r\n".encode())
    return Prepared(trace.field(when) + b"".join(kept) + b"\r\n", sender)


def parse_fields(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split header fields into (name in lower case, whole field with its line ends). Raises PermanentError 5.6.0."""
    found: list[tuple[bytes, bytes]] = []
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if line[:1] in (b" ", b"\t") and found:
            name, field = found[-1]
            found[-1] = (name, field + line)
            continue
        match = _NAME.match(line)
        if match is None or line[match.end() : match.end() + 1] != b":":
            raise PermanentError("5.6.0", f"line {number} of the header is not a header field")
        found.append((match[0].lower(), line))
    return found


def _check_utf8(fields: bytes, utf8: bool) -> None:
    if not utf8:
        raise PermanentError("5.6.0", "the header holds octets over 127, and SMTPUTF8 was not asked for (RFC 6531)")
    try:
        fields.decode()
    except UnicodeDecodeError:
        raise PermanentError("5.6.0", "the header is not UTF-8") from None


def _author(fields: list[bytes]) -> Address:
    """Return the one address of the one From field, as every recipient will check it (protocol.md §7.4)."""
    if len(fields) != 1:
        raise PermanentError("5.6.0", f"the message has {len(fields) or 'no'} From fields; there must be one")
    value = fields[0].partition(b":")[2].replace(b"\r\n", b"")
    try:
        return parse_mailbox(value.decode("utf-8").strip())
    except (MailboxError, UnicodeDecodeError) as error:
        raise PermanentError("5.6.0", f"the From field must hold exactly one address: {error}") from error
