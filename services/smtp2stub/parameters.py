"""The parameters of MAIL and RCPT (RFC 5321 §4.1.2) that are known here, read strictly. Sans-IO.

SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), AUTH (RFC 4954 §5), and RET, ENVID, NOTIFY and ORCPT (RFC 3461).
"""

import re
from collections.abc import Callable, Container
from dataclasses import dataclass

from stubmail.errors import PermanentError
from stubmail.xtext import XtextError, decode_envid, parse_original_recipient

_MAIL = ("SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID")
_RCPT = ("NOTIFY", "ORCPT")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\u0080-\U0010ffff]+))?")
_SIZE = re.compile(r"[0-9]{1,20}")  # RFC 1870 §3
_REASONS = ("SUCCESS", "FAILURE", "DELAY")


class ParameterError(PermanentError):
    """A parameter cannot be taken; ``reply`` is the basic code to say so with."""

    def __init__(self, text: str, reply: str = "501") -> None:
        super().__init__("5.5.4", text)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class MailParameters:
    """What MAIL said. ``size``: octets, 0 for unknown; ``ret``: FULL, HDRS or empty; ``envid``: xtext or empty."""

    size: int = 0
    utf8: bool = False
    ret: str = ""
    envid: str = ""


@dataclass(frozen=True, slots=True)
class RcptParameters:
    """What RCPT said: ``notify`` is NEVER, or some of SUCCESS, FAILURE and DELAY with commas between them, or empty;
    ``original`` is the value of ORCPT as it came."""

    notify: str = ""
    original: str = ""


def parse_mail_parameters(text: str) -> MailParameters:
    """Parse what stands behind MAIL's path. Raises ParameterError."""
    found = _parse(text, _MAIL)
    size, body, ret, envid = (found.get(name) for name in ("SIZE", "BODY", "RET", "ENVID"))
    if size is not None and not _SIZE.fullmatch(size):
        raise ParameterError("SIZE must be a number of octets")
    if body is not None and body.upper() not in ("7BIT", "8BITMIME"):
        raise ParameterError("BODY must be 7BIT or 8BITMIME")
    if found.get("SMTPUTF8"):
        raise ParameterError("SMTPUTF8 takes no value")
    if ret is not None and ret.upper() not in ("FULL", "HDRS"):
        raise ParameterError("RET must be FULL or HDRS")
    if envid is not None:
        _check("ENVID", decode_envid, envid)
    return MailParameters(int(size or 0), "SMTPUTF8" in found, (ret or "").upper(), envid or "")


def parse_rcpt_parameters(text: str, utf8: bool) -> RcptParameters:
    """Parse what stands behind RCPT's path; ``utf8``: MAIL said SMTPUTF8. Raises ParameterError."""
    found = _parse(text, _RCPT)
    notify, original = found.get("NOTIFY"), found.get("ORCPT")
    if original is not None:
        if not utf8 and not original.isascii():
            raise ParameterError("ORCPT beyond ASCII needs SMTPUTF8")
        _check("ORCPT", parse_original_recipient, original)
    return RcptParameters(_notify(notify) if notify is not None else "", original or "")


def _notify(value: str) -> str:
    words = value.upper().split(",")
    if words == ["NEVER"]:
        return "NEVER"
    if len(set(words)) != len(words) or not set(words) <= set(_REASONS):
        raise ParameterError("NOTIFY must be NEVER alone, or some of SUCCESS, FAILURE and DELAY")
    return ",".join(word for word in _REASONS if word in words)


def _parse(text: str, known: Container[str]) -> dict[str, str]:
    """Return parameters by name in capitals; the value of one without a value is empty."""
    found: dict[str, str] = {}
    for word in text.split(" "):
        if not word:
            continue
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise ParameterError("that is no parameter")
        name = match[1].upper()
        if name not in known:
            raise ParameterError(f"the parameter {name[:20]} is not known here", "555")  # RFC 5321 §4.1.1.11
        if name in found:
            raise ParameterError(f"{name} may be said once")
        if match[2] is None and name != "SMTPUTF8":
            raise ParameterError(f"{name} needs a value")
        found[name] = match[2] or ""
    return found


def _check(name: str, parse: Callable[[str], object], value: str) -> None:
    try:
        parse(value)
    except XtextError as error:
        raise ParameterError(f"{name}: {error}") from error
