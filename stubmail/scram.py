"""SCRAM-SHA-256, the server's side: proof of a password that never crosses the wire (RFC 5802, RFC 7677); no I/O.

``Exchange`` takes the client's two messages and returns the server's. What is kept of a password, ``Keys``, lets nobody
log in who steals it, though a password that is easy to guess can be guessed with it (RFC 5802 §9).
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from stubmail.saslprep import PrepError, saslprep

HASH = "sha256"
ITERATIONS = 4096  # RFC 7677 §4: at least
MAX_ITERATIONS = 10_000_000  # seconds of work; an entry that asks for more is a mistake
SALT_SIZE = 16  # octets

_PRINTABLE = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")  # RFC 5802 §7: no comma
_ESCAPES = re.compile(rb"=2C|=3D|=|[^=,\0]")


class ScramError(Exception):
    """The client's message cannot be used: not in the grammar, or not in agreement with what went before."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What is kept of a password: RFC 5802 §3's salt, iteration count, StoredKey and ServerKey."""

    iterations: int
    salt: bytes
    stored: bytes = field(repr=False)
    server: bytes = field(repr=False)

    def format(self) -> str:
        """Return the keys as the users file has them: ITERATIONS,SALT,STOREDKEY,SERVERKEY, three of them in base64."""
        return ",".join(
            (str(self.iterations), *(_encode(part).decode() for part in (self.salt, self.stored, self.server)))
        )

    @classmethod
    def parse(cls, text: str) -> "Keys":
        """Return the keys that ``format`` wrote. Raises ValueError."""
        count, *rest = text.split(",")
        if len(rest) != 3 or not re.fullmatch("[1-9][0-9]{0,7}", count) or int(count) > MAX_ITERATIONS:
            raise ValueError("not ITERATIONS,SALT,STOREDKEY,SERVERKEY")
        salt, stored, server = (base64.b64decode(part.encode(), validate=True) for part in rest)
        if not salt or len(stored) != 32 or len(server) != 32:
            raise ValueError("the keys are not those of SHA-256")
        return cls(int(count), salt, stored, server)


def derive(password: str, salt: bytes, iterations: int = ITERATIONS) -> Keys:
    """Return the keys of a password. CPU-bound: a millisecond for 4096 iterations."""
    try:
        prepared = saslprep(password, stored=True)
    except PrepError:
        prepared = password  # matches whoever sends the same
    salted = hashlib.pbkdf2_hmac(HASH, prepared.encode(errors="surrogatepass"), salt, iterations)
    client = hmac.digest(salted, b"Client Key", HASH)
    return Keys(iterations, salt, hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", HASH))


def matches(keys: Keys, password: str) -> bool:
    """Tell whether these are the keys of ``password``. CPU-bound."""
    derived = derive(password, keys.salt, keys.iterations)
    # HMAC fills its key up with zeros: a NUL at a password's end would make no difference.
    return hmac.compare_digest(derived.stored, keys.stored) and "\0" not in password


class Exchange:
    """One exchange: ``first``, then ``challenge`` with the keys of ``name``, then ``final``.

    ``nonce`` is fresh and cannot be guessed: printable ASCII without a comma. ``binding`` returns the channel's data
    for a type of binding (RFC 5929), or nothing when it has none; ``plus``: the client chose the mechanism -PLUS;
    ``plus_offered``: it could have.

    ``identity`` is whom the client would act as, empty for ``name`` itself. Nobody but the caller knows whether both
    are one account, and the caller must look (RFC 5802 §5.1, attribute a).
    """

    def __init__(self, nonce: bytes, binding: Callable[[str], bytes], *, plus: bool, plus_offered: bool) -> None:
        self._nonce = nonce
        self._binding = binding
        self._plus = plus
        self._plus_offered = plus_offered
        self._header = self._client_first = self._server_first = b""
        self._bound = b""
        self._keys: Keys | None = None
        self.name = self.identity = b""

    def first(self, message: bytes) -> None:
        """Take the client's first message; afterwards ``name`` says whose keys are wanted. Raises ScramError."""
        flag, identity, bare = _split(message, 3)
        self._header = b",".join((flag, identity, b""))
        self._bound = self._bind(flag)
        name, nonce = _attributes(bare, b"nr")  # an attribute m= in front is an extension that must be understood
        self.name = _unescape(name)
        self.identity = _unescape(_value(identity, b"a")) if identity else b""
        if not _PRINTABLE.fullmatch(nonce):
            raise ScramError("the nonce is not printable")
        self._nonce = nonce + self._nonce
        self._client_first = bare

    def challenge(self, keys: Keys) -> bytes:
        """Return the server's first message."""
        self._keys = keys
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, _encode(keys.salt), keys.iterations)
        return self._server_first

    def final(self, message: bytes) -> bytes | None:
        """Take the client's final message; returns the server's, or None when the proof is wrong. Raises ScramError."""
        assert self._keys is not None
        without_proof, comma, proof = message.rpartition(b",p=")
        if not comma:
            raise ScramError("there is no proof")
        bound, nonce = _attributes(without_proof, b"cr")
        if not hmac.compare_digest(_decode(bound), self._header + self._bound):
            raise ScramError("the channel is not the one that the client means")
        if not hmac.compare_digest(nonce, self._nonce):
            raise ScramError("the nonce is another one")
        whole = b",".join((self._client_first, self._server_first, without_proof))
        signature = hmac.digest(self._keys.stored, whole, HASH)
        given = _decode(proof)
        if len(given) != len(signature):
            raise ScramError("the proof has another length")
        client = bytes(one ^ other for one, other in zip(given, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha256(client).digest(), self._keys.stored):
            return None
        return b"v=" + _encode(hmac.digest(self._keys.server, whole, HASH))

    def _bind(self, flag: bytes) -> bytes:
        """Return what the client must show that it knows of the channel. Raises ScramError."""
        if flag.startswith(b"p=") and self._plus:
            bound = self._binding(flag[2:].decode("latin-1"))
            if not bound:
                raise ScramError("this type of channel binding is not supported")
            return bound
        if flag not in (b"n", b"y") or self._plus:
            raise ScramError("the mechanism and the use of channel binding contradict each other")
        if flag == b"y" and self._plus_offered:  # RFC 5802 §6: somebody took the offer out on its way
            raise ScramError("channel binding was offered")
        return b""


def _split(message: bytes, count: int) -> list[bytes]:
    parts = message.split(b",", count - 1)
    if len(parts) != count:
        raise ScramError("the message is cut short")
    return parts


def _value(attribute: bytes, name: bytes) -> bytes:
    if not attribute.startswith(name + b"="):
        raise ScramError(f"there is no attribute {name.decode()}")
    return attribute[2:]


def _attributes(message: bytes, names: bytes) -> list[bytes]:
    """Return the values of these attributes, which come first and in order; optional extensions may follow."""
    parts = message.split(b",")
    if len(parts) < len(names) or any(len(part) < 2 or part[1:2] != b"=" for part in parts):
        raise ScramError("the message is cut short")
    return [_value(part, bytes((name,))) for part, name in zip(parts, names, strict=False)]


def _unescape(name: bytes) -> bytes:
    parts = _ESCAPES.findall(name)
    if not name or b"=" in parts or sum(map(len, parts)) != len(name):
        raise ScramError("the name is not in the form of RFC 5802")
    return b"".join({b"=2C": b",", b"=3D": b"="}.get(part, part) for part in parts)


def _encode(data: bytes) -> bytes:
    return base64.b64encode(data)


def _decode(data: bytes) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise ScramError("an attribute is not base64") from None
