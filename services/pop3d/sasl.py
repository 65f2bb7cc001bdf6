"""SASL as POP3 carries it: the octets of a response to credentials (RFC 5034 §4, RFC 4616)."""

import base64
import binascii


class SaslError(Exception):
    """The response cannot be used; the text may be told to the client."""


def parse_plain(response: bytes) -> tuple[bytes, bytes]:
    """Return the name and the password in a base64 response of the mechanism PLAIN. Raises SaslError.

    The authorization identity must be empty or the same name: nobody may log in as another here.
    """
    if response == b"*":
        raise SaslError("Authentication cancelled")
    try:
        fields = base64.b64decode(response, validate=True).split(b"\0")
    except binascii.Error:
        raise SaslError("The response is not base64") from None
    if len(fields) != 3 or not fields[1]:
        raise SaslError("The response is not in the form of PLAIN")
    if fields[0] not in (b"", fields[1]):
        raise SaslError("Nobody may log in as another here")
    return fields[1], fields[2]
