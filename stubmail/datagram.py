"""UDP checks: "does mail wait for me?" and its answers, in fixed-size datagrams (protocol.md §6). Sans-IO."""

import hmac
import struct
from dataclasses import dataclass

CHECK_SIZE = 72  # octets, protocol.md §6.1
WAITING_SIZE = 68  # octets, protocol.md §6.2
UNKNOWN_SIZE = 24  # octets, protocol.md §6.3
MAX_COUNT = 2**32 - 1

_MAGIC = b"STUB\x01"
_CHECK, _WAITING, _UNKNOWN = (_MAGIC + bytes((kind, 0, 0)) for kind in (1, 2, 3))
_MAC_SIZE = 32


class DatagramError(ValueError):
    """The octets are not such a datagram, or not an authentic one: no answer is due."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check as it arrived: cookie id and nonce, 16 octets each; to be believed only once it is ``authentic``."""

    cookie: bytes
    nonce: bytes
    _signed: bytes
    _mac: bytes

    @classmethod
    def from_wire(cls, data: bytes) -> "Check":
        """Parse a check. Raises DatagramError for any other size, magic, version or type."""
        if len(data) != CHECK_SIZE or not data.startswith(_CHECK):
            raise DatagramError("not a check")
        return cls(data[8:24], data[24:40], data[:40], data[40:])

    def authentic(self, key: bytes) -> bool:
        """Tell whether whoever made this check holds the cookie's key."""
        return hmac.compare_digest(self._mac, _mac(key, self._signed))


@dataclass(frozen=True, slots=True)
class Waiting:
    """The store's answer: how many posts wait, and the largest serial among them (0 for none)."""

    count: int
    serial: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """The store does not know the cookie. Not authenticated: it is good for nothing but opening a session."""


def check_to_wire(cookie: bytes, nonce: bytes, key: bytes) -> bytes:
    """Return the check for a cookie id and a fresh nonce (16 octets each) under the cookie's key (32 octets)."""
    return _sealed(_CHECK + cookie + nonce, key, CHECK_SIZE)


def waiting_to_wire(nonce: bytes, count: int, serial: int, key: bytes) -> bytes:
    """Return the answer to an authentic check; a count over 2³²-1 is sent as that."""
    return _sealed(_WAITING + nonce + struct.pack(">IQ", min(count, MAX_COUNT), serial), key, WAITING_SIZE)


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
    if not hmac.compare_digest(data[-_MAC_SIZE:], _mac(key, data[:-_MAC_SIZE])):
        raise DatagramError("the answer is forged")
    return Waiting(*struct.unpack(">IQ", data[24:36]))


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _sealed(data: bytes, key: bytes, size: int) -> bytes:
    datagram = data + _mac(key, data)
    if len(datagram) != size:
        raise ValueError("cookie and nonce are 16 octets each")
    return datagram
