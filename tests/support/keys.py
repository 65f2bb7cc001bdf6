"""OpenPGP keys made in process, without gpg: quick, and enough wherever gpg's own are not the point."""

import pysequoia
from pysequoia.packet import Packet, PacketPile, Tag

from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.openpgp.gnupg import GnuPG
from stubmail.openpgp.unlocked import UnlockedIdentity


class NoGnuPG(GnuPG):
    """Stands where gpg would: cannot decrypt anything, and remembers that it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def unwrap(self, message: bytes, fingerprint: str, passphrase: str | None) -> bytes:
        self.asked += 1
        raise OpenPGPError("malformed", "the message cannot be decrypted")


def make_key(user_id: str | None = "Alice <alice@alpha.example>") -> pysequoia.Tsk:
    """Make a key with a signing and an encryption subkey."""
    return pysequoia.Tsk.generate(user_id=user_id)


def public(tsk: pysequoia.Tsk) -> bytes:
    """Return a key's certificate, binary."""
    return bytes(tsk.extract_certificate())


def make_identity(tsk: pysequoia.Tsk, gnupg: GnuPG | None = None) -> UnlockedIdentity:
    """Return an identity that uses the key."""
    return UnlockedIdentity(Certificate.parse(public(tsk)), bytes(tsk), "", gnupg or NoGnuPG())


def packets_of(data: bytes) -> list[Packet]:
    """Return the packets of binary OpenPGP data, as Sequoia reads them."""
    return list(PacketPile.from_bytes(data))


def tags_of(data: bytes) -> list[Tag]:
    """Return the types of the packets in binary OpenPGP data."""
    return [packet.tag for packet in packets_of(data)]


def packet(tag: int, body: bytes) -> bytes:
    """Frame a packet body (RFC 9580 §4.2.1), the length in five octets."""
    return bytes([0xC0 | tag, 255]) + len(body).to_bytes(4, "big") + body
