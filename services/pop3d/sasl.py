"""SASL as POP3 carries it: the server's side of each mechanism, and responses on the wire (RFC 5034 §4); no I/O."""

import base64
import binascii
from collections.abc import Callable
from typing import Protocol

from services.pop3d.actions import DigestLogin, FindKeys, Login, ScramLogin
from stubmail.scram import Exchange, Keys, ScramError

Step = bytes | Login | DigestLogin | FindKeys | ScramLogin  # a challenge, or what there is to do


class SaslError(Exception):
    """The response cannot be used; the text may be told to the client."""


class Mechanism(Protocol):
    """One exchange. ``challenge`` is what it begins with when the client sends no initial response."""

    challenge: bytes
    takes_initial: bool

    def respond(self, response: bytes) -> Step:
        """Take a response and return what comes next. Raises SaslError."""


class Plain:
    """PLAIN (RFC 4616)."""

    challenge = b""
    takes_initial = True

    def respond(self, response: bytes) -> Step:
        fields = response.split(b"\0")
        if len(fields) != 3 or not fields[1]:
            raise SaslError("The response is not in the form of PLAIN")
        identity, name, password = fields
        return Login(name, password, "PLAIN", identity)


class UserAndPassword:
    """LOGIN, which no RFC defines: what draft-murchison-sasl-login writes down, and Outlook and many others send."""

    challenge = b"Username:"
    takes_initial = True

    def __init__(self) -> None:
        self._name = b""

    def respond(self, response: bytes) -> Step:
        if not self._name:
            if not response:
                raise SaslError("The name is missing")
            self._name = response
            return b"Password:"
        return Login(self._name, response, "LOGIN")


class CramMd5:
    """CRAM-MD5 (RFC 2195); ``challenge`` in angle brackets, never the same twice."""

    takes_initial = False

    def __init__(self, challenge: bytes) -> None:
        self.challenge = challenge

    def respond(self, response: bytes) -> Step:
        name, space, digest = response.rpartition(b" ")
        if not space or not name:
            raise SaslError("The response is not in the form of CRAM-MD5")
        return DigestLogin(name, self.challenge, digest, "CRAM-MD5")


class Scram:
    """SCRAM-SHA-256, or -PLUS (RFC 7677); ``exchange`` does the arithmetic, ``keys_found`` goes on after FindKeys."""

    challenge = b""
    takes_initial = True

    def __init__(self, exchange: Exchange, name: str) -> None:
        self._exchange = exchange
        self._mechanism = name
        self._step: Callable[[bytes], Step] = self._first

    def respond(self, response: bytes) -> Step:
        try:
            return self._step(response)
        except ScramError as error:
            raise SaslError(f"Not in the form of SCRAM: {error}") from None

    def keys_found(self, keys: Keys) -> bytes:
        """Return the challenge that follows from the keys."""
        self._step = self._final
        return self._exchange.challenge(keys)

    def _first(self, response: bytes) -> Step:
        self._exchange.first(response)
        return FindKeys(self._exchange.name)

    def _final(self, response: bytes) -> Step:
        answer = self._exchange.final(response)
        if answer is None:
            return self._login(proven=False)
        self._step = self._end
        return answer

    def _end(self, response: bytes) -> Step:
        """The client has seen that this server knows its password too, and has nothing more to say."""
        if response:
            raise SaslError("The exchange has ended")
        return self._login(proven=True)

    def _login(self, *, proven: bool) -> ScramLogin:
        return ScramLogin(self._exchange.name, proven, self._mechanism, self._exchange.identity)


def parse_response(line: bytes) -> bytes:
    """Return what a client's line in an exchange says. Raises SaslError."""
    if line == b"*":
        raise SaslError("Authentication cancelled")
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        raise SaslError("The response is not base64") from None


def format_challenge(challenge: bytes) -> bytes:
    """Return a challenge as a line: an empty one is a plus sign and a space (RFC 5034 §4)."""
    return b"+ " + base64.b64encode(challenge) + b"\r\n"
