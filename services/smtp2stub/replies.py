"""Replies (RFC 5321 §4.2): what errors are said with, and enhanced status codes for aiosmtpd's own. Sans-IO."""

import re

from services.smtp2stub.parameters import ParameterError
from stubmail.errors import PermanentError, StubmailError

_ENHANCED = re.compile(r"[245]\d\d[ -][245]\.\d{1,3}\.\d{1,3}(?: |$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# The basic code that goes with an enhanced one, where it is not the one that most errors of its class have.
_BASIC = {
    "4.3.1": "452",
    "4.5.3": "452",
    "4.7.0": "454",  # RFC 4954 §6
    "5.1.3": "553",
    "5.1.7": "553",
    "5.3.4": "552",
    "5.5.2": "501",
    "5.5.4": "501",
    "5.6.7": "553",
    "5.7.0": "530",  # RFC 4954 §6
    "5.7.8": "535",
}
_BY_CODE = {
    "221": "2.0.0",
    "250": "2.0.0",
    "252": "2.5.0",
    "421": "4.3.2",
    "451": "4.3.0",
    "452": "4.3.1",
    "454": "4.7.0",
    "500": "5.5.2",
    "501": "5.5.4",
    "502": "5.5.1",
    "503": "5.5.1",
    "504": "5.5.4",
    "530": "5.7.0",
    "538": "5.7.11",
    "552": "5.3.4",
    "553": "5.1.3",
    "554": "5.5.0",
    "555": "5.5.4",
}
_BY_TEXT = {
    "220 Ready to start TLS": "220 2.0.0 ready to start TLS",
    "500 Error: bad syntax": "500 5.5.2 that is no command",
    "500 Command line too long": "500 5.5.6 the command line is too long",
    "503 Error: send HELO first": "503 5.5.1 say EHLO first",
    "503 Error: send EHLO first": "503 5.5.1 say EHLO first",
}


def refusal(error: StubmailError) -> str:
    """Return the reply that says an error."""
    usual = "550" if isinstance(error, PermanentError) else "451"
    basic = error.reply if isinstance(error, ParameterError) else _BASIC.get(error.code, usual)
    return f"{basic} {error.code} {error.text}"


def enhance(reply: str) -> str:
    """Return a one-line reply with an enhanced status code and without control characters.

    The greeting, 3xx replies and replies that have a code stay as they are; RFC 2034 §4 wants it so.
    """
    reply = _CONTROL.sub("?", reply)
    if reply in _BY_TEXT:
        return _BY_TEXT[reply]
    code, _, text = reply.partition(" ")
    if _ENHANCED.match(reply) or code not in _BY_CODE:
        return reply
    return f"{code} {_BY_CODE[code]} {text.removeprefix('Error: ')}"
