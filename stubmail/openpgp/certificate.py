"""Certificates: OpenPGP public keys as stub mail stores, compares and uses them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import pysequoia
from pysequoia.packet import PacketPile

from stubmail.address import Address, AddressError
from stubmail.openpgp import packets
from stubmail.openpgp.errors import OpenPGPError, Reason
from stubmail.openpgp.recipient import EncryptionKey, encryption_keys

MAX_CERTIFICATE = 64 * 1024  # octets, binary
MAX_ARMORED = MAX_CERTIFICATE * 3 // 2  # octets; base64, line ends, a few comment lines
MAX_PACKETS = 2048  # a certificate's
MAX_KEY_PACKET = 4096  # octets; the largest key in use, RSA of 8,192 bits, takes 1,040, a post-quantum one 2,700
MAX_USER_ID = 1000  # octets

ENGINE_ERRORS = (RuntimeError, OSError, ValueError)  # what pysequoia raises for what it cannot use

_TITLE = "PGP PUBLIC KEY BLOCK"


@dataclass(frozen=True)
class Certificate:
    """One transferable public key (RFC 9580 §10.1), cleaned of everything that its owner did not sign.

    ``data`` is binary, without third-party signatures, user attributes and unknown packets; ``fingerprint`` is whole,
    in upper-case hex; ``user_ids`` are those valid now; ``addresses`` holds Address.key of every one of them that
    holds exactly one address. Made by ``parse`` alone.
    """

    data: bytes
    fingerprint: str
    user_ids: tuple[str, ...]
    addresses: frozenset[str]

    @classmethod
    def parse(cls, data: bytes) -> "Certificate":
        """Read exactly one certificate, binary or ASCII-armoured. Raises OpenPGPError.

        More than one key, a secret key, or more than MAX_CERTIFICATE octets of binary data are refused.
        """
        return cls.from_packets(packets.read_packets(binary(data), MAX_PACKETS))

    @classmethod
    def from_packets(cls, stream: Iterable[packets.Packet]) -> "Certificate":
        """Read one certificate from its packets; what is left after cleaning is bounded by MAX_CERTIFICATE."""
        clean = _clean(stream)
        if len(clean) > MAX_CERTIFICATE:
            raise OpenPGPError("too-large", f"the certificate is larger than {MAX_CERTIFICATE} octets")
        try:
            cert = pysequoia.Cert.from_bytes(clean)
            user_ids = tuple(dict.fromkeys(str(user_id) for user_id in cert.user_ids))
            result = cls(bytes(cert), cert.fingerprint.upper(), user_ids, _addresses(user_ids))
            _facts(result.data)
        except ENGINE_ERRORS as error:
            reason = str(error).partition("\n")[0]
            raise OpenPGPError("unsupported", f"the certificate cannot be used: {reason}") from error
        return result

    @property
    def created(self) -> datetime:
        """When the primary key was made."""
        return _facts(self.data).created

    @property
    def expires(self) -> datetime | None:
        """When the primary key expires; None for never."""
        return _facts(self.data).expires

    @property
    def key_fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the primary key and of every subkey, bound or not, in upper-case hex."""
        return _facts(self.data).fingerprints

    @property
    def encryption_keys(self) -> tuple[EncryptionKey, ...]:
        """The keys that mail can be encrypted to, expired ones too, newest first."""
        return _facts(self.data).encryption_keys

    def signing_problem(self, now: datetime) -> Reason | None:
        """Return why its signatures must not be believed: "revoked", "expired"; None when they may be."""
        facts = _facts(self.data)
        if facts.revoked:
            return "revoked"
        if facts.expires and facts.expires <= now:
            return "expired"
        return None

    def problem(self, now: datetime) -> Reason | None:
        """Return why it must not be encrypted to: "revoked", "expired", "cannot-encrypt"; None when it is usable."""
        if problem := self.signing_problem(now):
            return problem
        if not self.encryption_keys:
            return "cannot-encrypt"
        return None if any(key.alive(now) for key in self.encryption_keys) else "expired"

    def only_for(self, address: Address) -> "Certificate":
        """Return it without the user IDs that do not name just ``address``, as one takes it from a stranger.

        Whoever offers a certificate for one address must not thereby speak for others. Raises OpenPGPError when
        nothing usable is left.
        """
        return self._with_user_ids(lambda found: found is not None and found.key == address.key)

    def without(self, address: Address) -> "Certificate":
        """Return it without the user IDs that name ``address``. Raises OpenPGPError when nothing usable is left."""
        return self._with_user_ids(lambda found: found is None or found.key != address.key)

    def merged(self, newer: "Certificate") -> "Certificate":
        """Return it with what another version of it adds: signatures, subkeys, revocations, user IDs.

        Nothing goes away by that. Raises OpenPGPError when it is not the same key, or the whole would be too large.
        """
        if newer.fingerprint != self.fingerprint:
            raise OpenPGPError("malformed", f"{newer.fingerprint} is not a version of {self.fingerprint}")
        try:
            both = bytes(pysequoia.Cert.from_bytes(self.data).merge(pysequoia.Cert.from_bytes(newer.data)))
        except ENGINE_ERRORS as error:
            reason = str(error).partition("\n")[0]
            raise OpenPGPError("unsupported", f"the certificate cannot be merged: {reason}") from error
        return Certificate.parse(both)

    def _with_user_ids(self, wanted: Callable[[Address | None], bool]) -> "Certificate":
        kept: list[packets.Packet] = []
        keep = True
        for packet in packets.read_packets(self.data, MAX_PACKETS):
            if packet.tag == packets.USER_ID:
                keep = wanted(address_of(packet.body.decode()))
            elif packet.tag != packets.SIGNATURE:
                keep = True
            if keep:
                kept.append(packet)
        return Certificate.from_packets(kept)

    def armored(self) -> bytes:
        """Return the certificate in ASCII armour (RFC 9580 §6.2), ending in a newline."""
        return packets.armor(self.data, _TITLE)


class _Facts(NamedTuple):
    created: datetime
    expires: datetime | None
    revoked: bool
    fingerprints: tuple[str, ...]
    encryption_keys: tuple[EncryptionKey, ...]


@lru_cache(maxsize=512)
def _facts(data: bytes) -> _Facts:
    cert = pysequoia.Cert.from_bytes(data)
    pile = list(PacketPile.from_bytes(data))
    fingerprints = tuple(packet.fingerprint.upper() for packet in pile if packet.fingerprint)
    created = pile[0].key_created or datetime.fromtimestamp(0, UTC)
    return _Facts(created, cert.expiration, cert.is_revoked, fingerprints, encryption_keys(pile))


def binary(data: bytes) -> bytes:
    """Return certificates without their ASCII armour, if any; no more than one may hold. Raises OpenPGPError."""
    if len(data) <= MAX_ARMORED and b"-----BEGIN " in data and not data[:1] > b"\x7f":
        data = packets.dearmor(data, _TITLE)
    if len(data) > MAX_CERTIFICATE:
        raise OpenPGPError("too-large", f"the certificate is larger than {MAX_CERTIFICATE} octets")
    return data


def split_certificates(stream: Iterable[packets.Packet]) -> list[list[packets.Packet]]:
    """Group packets by certificate; whatever stands before the first key is a group of its own."""
    groups: list[list[packets.Packet]] = []
    for packet in stream:
        if packet.tag == packets.PUBLIC_KEY or not groups:
            groups.append([])
        groups[-1].append(packet)
    return groups


def _clean(stream: Iterable[packets.Packet]) -> bytes:
    """Return what the owner signed: keys, user IDs, and the signatures that claim to be his (RFC 9580 §10.1)."""
    kept: list[bytes] = []
    issuers: set[str] = set()
    component = False  # whether the component that signatures follow is kept
    for packet in stream:
        if packet.tag in (packets.SECRET_KEY, packets.SECRET_SUBKEY):
            raise OpenPGPError("malformed", "this is a secret key; it must not leave its owner")
        if packet.tag == packets.PUBLIC_KEY and kept:
            raise OpenPGPError("malformed", "there is more than one certificate")
        if packet.tag != packets.PUBLIC_KEY and not kept:
            raise OpenPGPError("malformed", "this is not an OpenPGP certificate")
        if packet.tag in (packets.PUBLIC_KEY, packets.PUBLIC_SUBKEY):
            if packet.stop - packet.start > MAX_KEY_PACKET:
                raise OpenPGPError("unsupported", "the certificate holds an oversized key")
            component = True
            if not kept:
                issuers = _key_handles(packet.raw)
        elif packet.tag == packets.USER_ID:
            component = _presentable(packet.body)
        elif packet.tag != packets.SIGNATURE:
            component = False  # a user attribute or something unknown goes with its signatures
        if component and (packet.tag != packets.SIGNATURE or _issuers(packet.raw) & issuers):
            kept.append(packet.raw)
    if not kept:
        raise OpenPGPError("malformed", "this is not an OpenPGP certificate")
    return b"".join(kept)


def _key_handles(raw: bytes) -> set[str]:
    try:
        key = next(iter(PacketPile.from_bytes(raw)))
    except (StopIteration, *ENGINE_ERRORS) as error:
        raise OpenPGPError("unsupported", "the certificate's primary key cannot be read") from error
    return {handle for handle in (key.fingerprint, key.key_id) if handle}


def _issuers(raw: bytes) -> set[str]:
    try:
        signature = next(iter(PacketPile.from_bytes(raw)))
    except (StopIteration, *ENGINE_ERRORS):
        return set()  # of a version or shape that means nothing to us
    return {handle for handle in (signature.issuer_fingerprint, signature.issuer_key_id) if handle}


def _presentable(user_id: bytes) -> bool:
    """Say whether a user ID can be shown and compared: UTF-8, without control characters or line separators."""
    if not 0 < len(user_id) <= MAX_USER_ID:
        return False
    try:
        return user_id.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _addresses(user_ids: Iterable[str]) -> frozenset[str]:
    found = (address_of(user_id) for user_id in user_ids)
    return frozenset(address.key for address in found if address)


def address_of(user_id: str) -> Address | None:
    """Return the address in ``Name <address>`` or a bare ``address``; None unless there is exactly one.

    A name that itself holds an "@" could be taken for another address, so such a user ID has none.
    """
    text = user_id.strip()
    if text.count("@") != 1:
        return None
    if text.endswith(">"):
        text = text[:-1].rpartition("<")[2]
    try:
        return Address.parse(text)
    except AddressError:
        return None
