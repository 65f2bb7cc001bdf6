"""The languages of the server's texts, of which there is one (RFC 6856 §3)."""

import re

from services.pop3d.wire import WireError, ok

LANGUAGES = {"en": "English"}
DEFAULT = "en"

_RANGE = re.compile(rb"\*|[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8}){0,8}")  # RFC 4647 §2.1


def lang(argument: bytes) -> bytes:
    """Return the reply to LANG: the languages there are, or which of them is spoken from here on. Raises WireError.

    ``en-GB`` finds ``en``, as a look-up does (RFC 4647 §3.4).
    """
    wanted = argument.rstrip(b" ")
    if not wanted:
        listing = "".join(f"{tag} {name}\r\n" for tag, name in LANGUAGES.items())
        return ok("languages follow") + listing.encode() + b".\r\n"
    if not _RANGE.fullmatch(wanted):
        raise WireError("The argument must be a language")
    tag = DEFAULT if wanted in (b"*", b"i-default") else wanted.decode().lower()
    while tag not in LANGUAGES:
        tag, hyphen, _ = tag.rpartition("-")
        if not hyphen:
            raise WireError("Unknown language, say LANG for a list")
    return ok(f"{tag} {LANGUAGES[tag]} is spoken")
