"""Values of DSN parameters as they travel in SMTP: xtext (RFC 3461 §4) and its sister (RFC 6533 §3). Sans-IO."""

import re

MAX_ORCPT = 500  # characters, RFC 3461 §4.2
MAX_ENVID = 100  # characters of what was encoded, RFC 3461 §4.4

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_UTF8 = re.compile(r"(?:[!-*,-<>-\[\]-~\u0080-\U0010ffff]|\\x\{[0-9A-F]{1,6}\})*")
_POINT = re.compile(r"\\x\{([0-9A-F]{1,6})\}")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9!#$%&'*/?^_`{|}~.-]{1,30}")  # an atom, less what no parameter's value may hold


class XtextError(ValueError):
    """The text is not what it should be; the message says why."""


def decode_xtext(text: str) -> str:
    """Return what xtext stands for. Raises XtextError, also when that is not printable ASCII (RFC 3461 §4.4)."""
    if not _XTEXT.fullmatch(text):
        raise XtextError("that is no xtext")
    decoded = _HEX.sub(lambda match: chr(int(match[1], 16)), text)
    if not decoded.isascii() or not decoded.isprintable():
        raise XtextError("that xtext stands for something that cannot be printed")
    return decoded


def decode_envid(text: str) -> str:
    """Return an envelope's id, given as xtext. Raises XtextError."""
    decoded = decode_xtext(text)
    if not 0 < len(decoded) <= MAX_ENVID:
        raise XtextError(f"an envelope's id has 1 to {MAX_ENVID} characters")
    return decoded


def parse_original_recipient(text: str) -> tuple[str, str]:
    """Return type and address of an ORCPT parameter's value. Raises XtextError.

    An address of the type ``utf-8`` may hold more than ASCII, as it is or as ``\\x{…}`` (RFC 6533 §3).
    """
    kind, semicolon, encoded = text.partition(";")
    if len(text) > MAX_ORCPT or not semicolon or not encoded or not _ADDRESS_TYPE.fullmatch(kind):
        raise XtextError(f"an original recipient is TYPE;ADDRESS, of at most {MAX_ORCPT} characters")
    if kind.lower() != "utf-8":
        return kind, decode_xtext(encoded)
    if not _UTF8.fullmatch(encoded):
        raise XtextError("that is no address of the type utf-8")
    try:
        address = _POINT.sub(lambda match: chr(int(match[1], 16)), encoded)
    except (ValueError, OverflowError):
        raise XtextError("there is no such character") from None
    if not address.isprintable():
        raise XtextError("that address cannot be printed")
    return kind, address
