"""Which key of a certificate mail is encrypted to: the newest that can and may, one a certificate, as GnuPG has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import pysequoia
from pysequoia.packet import Packet, SignatureType, Tag


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """One key for encryption: its long key ID (upper-case hex), times, and a certificate that holds no other."""

    key_id: str
    created: datetime
    expires: datetime | None
    certificate: bytes

    def alive(self, now: datetime) -> bool:
        """Say whether the key may be used at ``now``."""
        return self.expires is None or now < self.expires


@lru_cache(maxsize=128)
def engine_certificate(data: bytes) -> pysequoia.Cert:
    """Return Sequoia's form of a certificate known to be good; reading it costs as much as using it."""
    return pysequoia.Cert.from_bytes(data)


def encryption_keys(pile: Sequence[Packet]) -> tuple[EncryptionKey, ...]:
    """Return the keys for encryption of the certificate with these packets, newest first.

    Sequoia decides whether a binding is valid, unrevoked and for encryption, asked for one key at a time; it would
    encrypt to an expired key when there is no other, so expiry is read from the binding here.
    """
    parts = _components(pile)
    base = [packet for part in parts if part[0].tag != Tag.PublicSubkey for packet in part]
    if _can_encrypt(base):  # an old-style primary key that does everything; its expiry is the certificate's
        primary = base[0]
        return (EncryptionKey(_key_id(primary), _created(primary), None, _join(base)),)
    subkeys = [part for part in parts if part[0].tag == Tag.PublicSubkey]
    found = [key for part in subkeys if (key := _encryption_key(base, part))]
    return tuple(sorted(found, key=lambda key: key.created, reverse=True))


def _encryption_key(base: list[Packet], part: list[Packet]) -> EncryptionKey | None:
    subkey, signatures = part[0], part[1:]
    bindings = [
        sig for sig in signatures if sig.signature_type == SignatureType.SubkeyBinding and sig.signature_created
    ]
    others = [sig for sig in signatures if sig.signature_type != SignatureType.SubkeyBinding]
    for binding in sorted(bindings, key=_created, reverse=True):
        packets = [*base, subkey, *others, binding]
        if _can_encrypt(packets):
            period = binding.key_validity_period
            created = _created(subkey)
            return EncryptionKey(_key_id(subkey), created, created + period if period else None, _join(packets))
    return None


def _components(pile: Sequence[Packet]) -> list[list[Packet]]:
    """Group packets: each key or user ID with the signatures behind it."""
    parts: list[list[Packet]] = []
    for packet in pile:
        if packet.tag == Tag.Signature and parts:
            parts[-1].append(packet)
        else:
            parts.append([packet])
    return parts


def _can_encrypt(packets: Sequence[Packet]) -> bool:
    try:
        return bool(pysequoia.encrypt(b"", [pysequoia.Cert.from_packets(packets)], armor=False))
    except (RuntimeError, OSError, ValueError):
        return False


def _created(packet: Packet) -> datetime:
    created = packet.key_created or packet.signature_created
    assert created is not None
    return created


def _key_id(packet: Packet) -> str:
    return (packet.key_id or "").upper()


def _join(packets: Sequence[Packet]) -> bytes:
    return b"".join(bytes(packet) for packet in packets)
