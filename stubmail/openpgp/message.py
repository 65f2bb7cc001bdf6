"""Encrypted messages seen from outside: who they are for, and how to take them apart and put them together."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stubmail.openpgp import packets
from stubmail.openpgp.errors import OpenPGPError

MAX_SESSION_KEYS = 4096  # PKESK packets, thus recipients, of one message

ANYONE = "0" * 16  # the key ID of a hidden recipient, RFC 9580 §5.1.8


class SessionKey(NamedTuple):
    """One PKESK packet (RFC 9580 §5.1): for whom (a long key ID, upper-case hex), its version, and its octets."""

    key_id: str
    version: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class EncryptedMessage:
    """An encrypted message (RFC 9580 §10.3): session keys, then one packet of encrypted data, and nothing else."""

    session_keys: tuple[SessionKey, ...]
    body: bytes
    body_type: int  # packets.SEIPD or packets.OCB

    @classmethod
    def parse(cls, data: bytes) -> "EncryptedMessage":
        """Take a binary message apart without decrypting anything. Raises OpenPGPError."""
        session_keys: list[SessionKey] = []
        for packet in packets.read_packets(data, MAX_SESSION_KEYS + 1):
            if packet.tag == packets.PKESK:
                session_keys.append(_session_key(packet))
                continue
            if packet.tag == packets.SED:
                raise OpenPGPError("unsupported", "the message is encrypted without integrity protection")
            if packet.tag not in (packets.SEIPD, packets.OCB) or not session_keys:
                raise OpenPGPError("malformed", "this is not a message encrypted to a key")
            if packet.stop != len(data):
                raise OpenPGPError("malformed", "something follows the encrypted message")
            return cls(tuple(session_keys), packet.raw, packet.tag)
        raise OpenPGPError("malformed", "the message has no content")

    def only_for(self, key_ids: Collection[str]) -> bytes:
        """Return the message with just the session keys for one of these keys, or for an unnamed one.

        Raises OpenPGPError when there is none: the message is for somebody else.
        """
        heads = [key.raw for key in self.session_keys if key.key_id in key_ids or key.key_id == ANYONE]
        if not heads:
            raise OpenPGPError("not-for-us", "the message is not encrypted to our key")
        return b"".join([*heads, self.body])

    def in_order(self, key_ids: Sequence[str]) -> bytes:
        """Return the message with one session key for each of these keys, in this order, and no others."""
        heads = {key.key_id: key.raw for key in self.session_keys}
        return b"".join([*(heads[key_id] for key_id in key_ids), self.body])


def _session_key(packet: packets.Packet) -> SessionKey:
    start = packet.peek(35)
    version = start[0] if start else 0
    if version == 3 and len(start) >= 9:
        return SessionKey(start[1:9].hex().upper(), version, packet.raw)
    if version == 6 and len(start) >= 2:  # length of what follows, the key's version, its fingerprint
        size = start[1] - 1
        fingerprint = start[3 : 3 + max(size, 0)].hex().upper()
        if size in (20, 32):
            return SessionKey(fingerprint[-16:] if size == 20 else fingerprint[:16], version, packet.raw)
        if start[1] == 0:
            return SessionKey(ANYONE, version, packet.raw)
    raise OpenPGPError("malformed", "the message has a session key of an unknown kind")
