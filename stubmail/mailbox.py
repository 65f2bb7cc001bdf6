"""The one mailbox of a ``From:`` field (RFC 5322 §3.4), read so strictly that nobody can see another. Sans-IO."""

import re

from stubmail.address import Address, AddressError

MAX_FIELD = 4096  # characters; the longest name and address anybody needs, many times over

# Tokens of RFC 5322 §3.2; anything beyond ASCII is a letter (RFC 6532 §3.2). Dots and @ signs are tokens of their own.
_TOKEN = re.compile(
    r"""(?P<blank>[ \t]+)
      | (?P<atom>[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+)
      | "(?P<quoted>(?:[^"\\\r\n]|\\[^\r\n])*)"
      | (?P<special>[.@<>(])
    """,
    re.VERBOSE,
)
_COMMENT = re.compile(r"[^()\\\r\n]+|\\[^\r\n]|[()]")
_ADDRESS = re.compile(r"(?:a(?:\.a)*|q)@a(?:\.a)*")  # the shapes of tokens that make an addr-spec (RFC 5322 §3.4.1)
_DISPLAY_NAME = re.compile(r"[aq.@]*")  # "@" is not allowed there, but programs write it, and it names nobody


class MailboxError(ValueError):
    """The text is not exactly one mailbox; the message says why."""


def parse_mailbox(text: str) -> Address:
    """Return the address of ``Name <local@domain>`` or ``local@domain``, with comments. Raises MailboxError.

    Groups, lists, routes, domain literals and control characters are refused.
    """
    if len(text) > MAX_FIELD:
        raise MailboxError("the field is too long")
    shapes, values = _tokens(text)
    address = shapes
    if "<" in shapes:
        start = shapes.index("<")
        if not shapes.endswith(">") or not _DISPLAY_NAME.fullmatch(shapes, 0, start):
            raise MailboxError("not one mailbox")
        address, values = shapes[start + 1 : -1], values[start + 1 : -1]
    if not _ADDRESS.fullmatch(address):
        raise MailboxError("not one mail address")
    try:
        return Address.parse("".join(values))
    except (AddressError, UnicodeError) as error:
        raise MailboxError(str(error)) from error


def _tokens(text: str) -> tuple[str, list[str]]:
    """Return the tokens' shapes, a letter each (``a`` atom, ``q`` quoted string, or the special itself), and values."""
    shapes: list[str] = []
    values: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise MailboxError(f"{text[position]!r} has no place in one mailbox")
        position = match.end()
        if match["special"] == "(":
            position = skip_comment(text, position)
        elif match["quoted"] is not None:
            shapes.append("q")
            values.append(re.sub(r"\\(.)", r"\1", match["quoted"]))
        elif not match["blank"]:
            shapes.append("a" if match["atom"] else match["special"])
            values.append(match[0])
    return "".join(shapes), values


def skip_comment(text: str, position: int) -> int:
    """Return the position behind the comment that opened just before ``position``; comments nest (RFC 5322 §3.2.2).

    Raises MailboxError when it does not end.
    """
    depth = 1
    while depth:
        match = _COMMENT.match(text, position)
        if match is None:
            raise MailboxError("a comment does not end")
        position = match.end()
        depth += {"(": 1, ")": -1}.get(match[0], 0)
    return position
