"""Enhanced status codes (RFC 2034, RFC 3463) for the replies that aiosmtpd gives without one. Sans-IO."""

import re

_ENHANCED = re.compile(r"[245]\d\d[ -][245]\.\d{1,3}\.\d{1,3}(?: |$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

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
    "501 Error: BODY can only be one of 7BIT, 8BITMIME": "501 5.5.4 BODY must be 7BIT or 8BITMIME",
    "503 Error: send HELO first": "503 5.5.1 say EHLO first",
    "503 Error: send EHLO first": "503 5.5.1 say EHLO first",
    "503 Error: need MAIL command": "503 5.5.1 MAIL comes before RCPT",
    "503 Error: nested MAIL command": "503 5.5.1 there is a sender already",
    "552 Error: message size exceeds fixed maximum message size": "552 5.3.4 the message is larger than allowed here",
}


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
