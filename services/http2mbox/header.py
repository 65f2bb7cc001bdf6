"""The header section of a message (RFC 5322 §2.2): where it ends, and the fields of one name. Sans-IO.

Line ends may be CRLF or LF alone, since the mbox file will make them the same: a field that appears only there counts.
"""

import re
from collections.abc import Iterator

_LINE_END = re.compile(rb"\r?\n")
_FIELDS = {
    name: (
        name.lower(),
        re.compile(rb"^%b[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)(?:\n|\Z)" % name, re.IGNORECASE | re.MULTILINE),
    )
    for name in (b"From", b"Received", b"Authentication-Results")
}


def section_end(message: bytes) -> int:
    """Return the offset behind the last header field's line end: where the empty line begins, or the message's end."""
    if message.startswith((b"\n", b"\r\n")):
        return 0
    end = message.find(b"\n\r\n")
    other = message.find(b"\n\n", 0, end + 1 if end >= 0 else len(message))
    found = other if other >= 0 else end
    return found + 1 if found >= 0 else len(message)


def has_bare_cr(message: bytes) -> bool:
    """Tell whether the header section holds a CR without LF: some programs would see a line end there, some not."""
    end = section_end(message)
    return message.count(b"\r", 0, end) != message.count(b"\r\n", 0, end)


def fields(message: bytes, name: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (start, end, value) of each field ``name``, which is ``From``, ``Received`` or ``Authentication-Results``.

    The offsets enclose the whole field with its line end; the value is unfolded (RFC 5322 §2.2.3) and stripped. A blank
    between name and colon (the obsolete syntax of RFC 5322 §4.5) makes no difference.
    """
    header = message[: section_end(message)]
    word, pattern = _FIELDS[name]
    if word not in header.lower():  # which takes a fraction of the time
        return
    for match in pattern.finditer(header):
        yield match.start(), match.end(), _LINE_END.sub(b"", match[1]).strip()
