"""Ways to prove knowledge of a password to a POP3 server: APOP, and SASL's PLAIN and SCRAM-SHA-256(-PLUS); no I/O."""

import base64
import binascii
import hashlib
import hmac
import re
from typing import Protocol

from stubmail.saslprep import PrepError, saslprep

SCRAM_PLUS = "SCRAM-SHA-256-PLUS"
MAX_ITERATIONS = 1_000_000  # of PBKDF2 that a server may ask for: about a second
MIN_ITERATIONS = 4_096  # RFC 7677 §4: fewer would make the password cheap to guess

# A msg-id, RFC 1939 §7: what is none helps an attacker in the middle to find out the password (CVE-2007-1558).
_TIMESTAMP = re.compile(rb"<[!-;=?A-~]+@[!-;=?A-~]+>")
_FIRST = re.compile(r"r=([!-+\--~]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,8})(?:,.*)?")
_FINAL = re.compile(r"v=([A-Za-z0-9+/=]+)(?:,.*)?")


class MechanismError(Exception):
    """The server's turn is none of this mechanism's; the text says why."""


class Mechanism(Protocol):
    """One exchange: the line that begins it, and the answers to challenges; base64 is undone and redone here."""

    name: str

    def begin(self) -> str:
        """Return the AUTH command."""

    def answer(self, challenge: bytes) -> str:
        """Return the line that answers a challenge. Raises MechanismError."""

    def finish(self) -> None:
        """The server said +OK: raise MechanismError unless it might."""


def apop(greeting: bytes, username: str, password: str) -> str | None:
    """Return the APOP command, or None when the greeting has no timestamp (RFC 1939 §7)."""
    match = _TIMESTAMP.search(greeting)
    if match is None or " " in username:
        return None
    digest = hashlib.md5(match[0] + password.encode(), usedforsecurity=False).hexdigest()
    return f"APOP {username} {digest}"


class Plain:
    """RFC 4616. The password itself goes over the wire: for connections with TLS."""

    name = "PLAIN"

    def __init__(self, username: str, password: str) -> None:
        self._response = _encode(f"\0{username}\0{password}")

    def begin(self) -> str:
        return "AUTH PLAIN"  # the response does not fit into 255 octets always, RFC 5034 §4

    def answer(self, challenge: bytes) -> str:
        return self._response

    def finish(self) -> None:
        pass


class Scram:
    """SCRAM-SHA-256 (RFC 5802, RFC 7677): the server proves that it knows the password, too.

    ``nonce`` is printable ASCII without a comma, fresh for each exchange. ``binding``: a type of channel binding and
    its data, for SCRAM-SHA-256-PLUS: then the server is at the other end of this TLS connection, and nobody between.
    """

    name = "SCRAM-SHA-256"

    def __init__(self, username: str, password: str, nonce: str, binding: tuple[str, bytes] | None = None) -> None:
        self._header, self._bound = "n,,", b""
        if binding is not None:
            self.name = SCRAM_PLUS
            self._header, self._bound = f"p={binding[0]},,", binding[1]
        self._password = _prepared(password).encode()
        self._nonce = nonce
        self._bare = f"n={_prepared(username).replace('=', '=3D').replace(',', '=2C')},r={nonce}"
        self._turn = 0
        self._server_signature = b""
        self._proved = False

    def begin(self) -> str:
        return f"AUTH {self.name}"

    def answer(self, challenge: bytes) -> str:
        self._turn += 1
        if self._turn == 1:
            return _encode(f"{self._header}{self._bare}")
        text = _decode(challenge)
        if self._turn == 2:
            return self._prove(text)
        if self._turn == 3:
            match = _FINAL.fullmatch(text)
            if match is None or not hmac.compare_digest(_unbase64(match[1]), self._server_signature):
                raise MechanismError("the server does not know the password: it is not the one that it pretends to be")
            self._proved = True
            return ""
        raise MechanismError("the server asks for more than SCRAM-SHA-256 has")

    def finish(self) -> None:
        if not self._proved:
            raise MechanismError("the server let us in without a proof that it knows the password")

    def _prove(self, first: str) -> str:
        match = _FIRST.fullmatch(first)
        if match is None or not match[1].startswith(self._nonce) or match[1] == self._nonce:
            raise MechanismError("the server's challenge is not one of SCRAM-SHA-256")
        iterations = int(match[3])
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise MechanismError(f"the server asks for {iterations} iterations of PBKDF2")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, _unbase64(match[2]), iterations)
        final = f"c={base64.b64encode(self._header.encode() + self._bound).decode()},r={match[1]}"
        text = f"{self._bare},{first},{final}".encode()
        key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(key).digest(), text)
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), text)
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        return _encode(f"{final},p={base64.b64encode(proof).decode()}")


def _prepared(text: str) -> str:
    try:
        return saslprep(text, stored=True)
    except PrepError:
        return text  # whatever the server makes of it


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(challenge: bytes) -> str:
    try:
        return base64.b64decode(challenge, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise MechanismError("the server's challenge is not base64") from None


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise MechanismError("the server's challenge is not base64") from None
