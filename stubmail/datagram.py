"""UDP checks and tokens: questions and answers in fixed-size datagrams (protocol.md §6). Sans-IO.

Clients ask with ``check_to_wire`` and ``token_request_to_wire`` and read with ``answer_from_wire`` and
``token_from_wire``; the store does the reverse, tens of thousands of times a second.
"""

import hmac
import struct
from dataclasses import dataclass
from hashlib import sha256

CHECK_SIZE = 72  # octets, protocol.md §6.1
WAITING_SIZE = 68  # octets, protocol.md §6.2
UNKNOWN_SIZE = 24  # octets, protocol.md §6.3
TOKEN_REQUEST_SIZE = 72  # octets, protocol.md §6.4
TOKEN_SIZE = 20  # octets, of the token itself
TOKEN_ANSWER_SIZE = 48  # octets, protocol.md §6.5
QUESTION_SIZE = CHECK_SIZE  # octets of every question that deserves an answer
MAX_COUNT = 2**32 - 1

_CHECK, _WAITING, _UNKNOWN, _TOKEN_REQUEST, _TOKEN = (b"STUB\x01" + bytes((kind, 0, 0)) for kind in range(1, 6))
_ANSWER = struct.Struct(">8s16sIQ")
_TOKEN_ANSWER = struct.Struct(f">8s16s{TOKEN_SIZE}sI")
_MAC_SIZE = 32
_BLOCK = 64  # octets of a SHA-256 block, RFC 2104's B
_INNER, _OUTER = (bytes(octet ^ pad for octet in range(256)) for pad in (0x36, 0x5C))


class DatagramError(ValueError):
    """The octets are not such a datagram, or not an authentic one: no answer is due."""


class MacKey:
    """A key made ready for many MACs: HMAC-SHA256 with the two padded keys kept (RFC 2104 §4)."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        """``key`` has at most 64 octets."""
        if len(key) > _BLOCK:
            raise ValueError(f"a key has at most {_BLOCK} octets")
        block = key.ljust(_BLOCK, b"\0")
        self._inner, self._outer = block.translate(_INNER), block.translate(_OUTER)

    def mac(self, data: bytes) -> bytes:
        """Return the MAC of ``data``, 32 octets."""
        # Half the time of hmac.digest, which looks its algorithm up each time; it is what a check spends most of.
        return sha256(self._outer + sha256(self._inner + data).digest()).digest()


class Check:
    """A check as it arrived: cookie id and nonce, 16 octets each; to be believed only once it is ``authentic``."""

    __slots__ = ("_mac", "_signed", "cookie", "nonce")

    def __init__(self, cookie: bytes, nonce: bytes, signed: bytes, mac: bytes) -> None:
        self.cookie = cookie
        self.nonce = nonce
        self._signed = signed
        self._mac = mac

    @classmethod
    def from_wire(cls, data: bytes) -> "Check":
        """Parse a check. Raises DatagramError for any other size, magic, version or type."""
        if len(data) != CHECK_SIZE or not data.startswith(_CHECK):
            raise DatagramError("not a check")
        return cls(data[8:24], data[24:40], data[:40], data[40:])

    def authentic(self, key: MacKey) -> bool:
        """Tell whether whoever made this check holds the cookie's key."""
        return hmac.compare_digest(self._mac, key.mac(self._signed))


@dataclass(frozen=True, slots=True)
class Waiting:
    """The store's answer: how many posts wait, and the largest serial among them (0 for none)."""

    count: int
    serial: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """The store does not know the cookie. Not authenticated: it is good for nothing but opening a session."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a store under attack wants to see in HTTP requests: TOKEN_SIZE octets, good for so many seconds."""

    octets: bytes
    lifetime: int


def check_to_wire(cookie: bytes, nonce: bytes, key: bytes) -> bytes:
    """Return the check for a cookie id and a fresh nonce (16 octets each) under the cookie's key (32 octets)."""
    data = _CHECK + cookie + nonce
    datagram = data + MacKey(key).mac(data)
    if len(datagram) != CHECK_SIZE:
        raise ValueError("cookie and nonce are 16 octets each")
    return datagram


def waiting_to_wire(nonce: bytes, count: int, serial: int, key: MacKey) -> bytes:
    """Return the answer to an authentic check; a count over 2³²-1 is sent as that."""
    data = _ANSWER.pack(_WAITING, nonce, count if count < MAX_COUNT else MAX_COUNT, serial)
    return data + key.mac(data)


def unknown_to_wire(nonce: bytes) -> bytes:
    """Return the answer to a check whose cookie is not known."""
    return _UNKNOWN + nonce


def answer_from_wire(data: bytes, nonce: bytes, key: bytes) -> Waiting | Unknown:
    """Parse the answer to the check that carried this nonce, under the same key.

    Raises DatagramError when it answers another check, is forged, or is no answer at all.
    """
    if len(data) == UNKNOWN_SIZE and data.startswith(_UNKNOWN) and data[8:] == nonce:
        return Unknown()
    if len(data) != WAITING_SIZE or not data.startswith(_WAITING) or data[8:24] != nonce:
        raise DatagramError("not an answer to this check")
    signed, mac = data[:-_MAC_SIZE], data[-_MAC_SIZE:]
    if not hmac.compare_digest(mac, MacKey(key).mac(signed)):
        raise DatagramError("the answer is forged")
    _, _, count, serial = _ANSWER.unpack(signed)
    return Waiting(count, serial)


def token_request_to_wire(nonce: bytes) -> bytes:
    """Return the question for a token with a fresh nonce (16 octets); it is longer than its answer on purpose."""
    if len(nonce) != 16:
        raise ValueError("a nonce has 16 octets")
    return (_TOKEN_REQUEST + nonce).ljust(TOKEN_REQUEST_SIZE, b"\0")


def token_request_from_wire(data: bytes) -> bytes:
    """Return the nonce of a question for a token. Raises DatagramError for anything else."""
    if len(data) != TOKEN_REQUEST_SIZE or not data.startswith(_TOKEN_REQUEST) or any(data[24:]):
        raise DatagramError("not a question for a token")
    return data[8:24]


def token_to_wire(nonce: bytes, token: Token) -> bytes:
    """Return the answer to the question for a token that carried this nonce."""
    return _TOKEN_ANSWER.pack(_TOKEN, nonce, token.octets, token.lifetime)


def token_from_wire(data: bytes, nonce: bytes) -> Token:
    """Parse the answer to the question for a token that carried this nonce. Raises DatagramError for any other."""
    if len(data) != TOKEN_ANSWER_SIZE or not data.startswith(_TOKEN) or data[8:24] != nonce:
        raise DatagramError("not a token for this question")
    _, _, octets, lifetime = _TOKEN_ANSWER.unpack(data)
    return Token(octets, lifetime)
