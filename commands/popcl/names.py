"""Names of files for messages, made of what strangers wrote: their Message-IDs (RFC 5322 §3.6.4).

Two different identifiers never give the same name, and none gives one that is hidden, too long or not in OUT_DIR:
octets that have no place in a name are written as %XX, as in a URL; = and ~ stand in names only where this module put
them.
"""

import hashlib
import re

MAX_NAME = 180  # octets of an encoded identifier; file systems allow 255
MAX_HEADER = 131_072  # octets of a header in which the Message-ID is looked for

_UNSAFE = re.compile(rb"[^A-Za-z0-9._@+$!,-]|^[.-]|(?<=\.)\.")
_FIELD = re.compile(rb"(?:\A|\n)message-id[ \t]*:((?:[^\r\n]|\r?\n[ \t]|\r(?!\n))*)", re.IGNORECASE)
_HEADER_END = re.compile(rb"\n\r?\n")


class Header:
    """Collects the beginning of a message until its header is whole, and no more of it than MAX_HEADER octets."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._whole = False

    def feed(self, octets: bytes) -> None:
        """Take a piece of the message; pieces behind the header are ignored."""
        if self._whole:
            return
        searched = max(0, len(self._octets) - 2)
        self._octets += octets[: MAX_HEADER - len(self._octets)]
        self._whole = len(self._octets) >= MAX_HEADER or _HEADER_END.search(self._octets, searched) is not None

    def message_id(self) -> bytes | None:
        """Return what the first Message-ID says, without its angle brackets; None when it says nothing."""
        octets = bytes(self._octets)
        if octets.startswith((b"\r\n", b"\n")):  # there is no header at all
            return None
        end = _HEADER_END.search(octets)
        match = _FIELD.search(octets[: end.start() + 1] if end else octets)
        if match is None:
            return None
        text = re.sub(rb"\r?\n", b"", match[1]).strip(b" \t\r")
        bracketed = re.search(rb"<([^<>]*)>", text)
        return (bracketed[1].strip(b" \t") if bracketed else text) or None


def name_of(message_id: bytes | None, uid: bytes | None, digest: str) -> str:
    """Return a message's name: of its Message-ID, else its unique-id at the server, else its content (SHA-256, hex)."""
    if message_id:
        return _encode(message_id)
    return f"uidl={_encode(uid)}" if uid else f"sha256={digest}"


def variant(name: str, digest: str) -> str:
    """Return the name for another message with the same identifier."""
    return f"{name}~{digest[:32]}"


def _encode(identifier: bytes) -> str:
    name = _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], identifier).decode("ascii")
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 70]}~{hashlib.sha256(identifier).hexdigest()}"
