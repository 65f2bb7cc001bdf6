"""Tokens: proof that whoever sends an HTTP request got an answer from the UDP port before (protocol.md §6.4, §6.6).

Nothing is remembered: a token is a time slot and a MAC over the asker's network and that slot, under a key that the
notifiers and HTTP workers of all replicas share.
"""

import hmac
import re
import struct
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network

from stubmail.datagram import TOKEN_SIZE, MacKey, Token
from stubmail.limits import network, within
from stubmail.request import Refusal

SLOT_SECONDS = 300  # a token is good in the slot it was given in and in the next one

_PURPOSE = b"stubmail token 1\0"
_SLOT = struct.Struct(">I")
_HEX = re.compile(rf"[0-9a-f]{{{2 * TOKEN_SIZE}}}")


class Tokens:
    """Gives tokens and recognizes them; the same for all who have the same key of 32 octets."""

    def __init__(self, store_key: bytes) -> None:
        self._key = MacKey(store_key)

    def give(self, address: str, now: int) -> Token:
        """Return the token for who asks from this IP address at this Unix time."""
        slot = now // SLOT_SECONDS
        return Token(self._octets(slot, address), (slot + 2) * SLOT_SECONDS - now)

    def good(self, token: bytes, address: str, now: int) -> bool:
        """Tell whether a token was given to this address, or one of the same network, and not too long ago."""
        if len(token) != TOKEN_SIZE:
            return False
        (slot,) = _SLOT.unpack_from(token)
        # One slot ahead, for replicas whose clocks differ: nobody else can have made it.
        return abs(now // SLOT_SECONDS - slot) <= 1 and hmac.compare_digest(token, self._octets(slot, address))

    def _octets(self, slot: int, address: str) -> bytes:
        number = _SLOT.pack(slot)
        mac = self._key.mac(_PURPOSE + number + network(address).encode())
        return number + mac[: TOKEN_SIZE - _SLOT.size]


class TokenGate:
    """Keeps out HTTP requests without a good token, but for those from the networks ``exempt``."""

    def __init__(self, tokens: Tokens, exempt: Sequence[IPv4Network | IPv6Network], clock: Callable[[], float]) -> None:
        self._tokens = tokens
        self._exempt = exempt
        self._clock = clock

    def check(self, field: str | None, remote: str) -> None:
        """Check the header field Stub-Token of a request from the address ``remote``. Raises Refusal ``token``."""
        if within(remote, self._exempt):
            return
        if field is None:
            raise Refusal("token", "a token is needed here: ask over UDP first (protocol.md 6.6)")
        token = bytes.fromhex(field) if _HEX.fullmatch(field) else b""
        if not self._tokens.good(token, remote, int(self._clock())):
            raise Refusal("token", "that token is too old or another address's: ask over UDP for another one")
