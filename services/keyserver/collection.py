"""The certificates of one domain and how they are found: by fingerprint, key id, address or part of a user ID. Sans-IO.

A collection is made anew for every change, so whoever reads one needs no lock.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from services.keyserver.hkp import MAX_LISTED, Lookup
from stubmail.address import Address
from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.openpgp.certificate import address_of
from stubmail.openpgp.packets import PUBLIC_SUBKEY, USER_ID, read_packets

MAX_PACKETS = 2048  # of one certificate


class Collection:
    """Certificates, each fingerprint once."""

    def __init__(self, certificates: Iterable[Certificate] = ()) -> None:
        self._certificates = {certificate.fingerprint: certificate for certificate in certificates}
        self._by_key: dict[str, list[Certificate]] = {}
        self._by_address: dict[str, list[Certificate]] = {}
        for certificate in self:
            handles = {handle for fingerprint in certificate.key_fingerprints for handle in _handles(fingerprint)}
            for handle in handles:
                self._by_key.setdefault(handle, []).append(certificate)
            for address in certificate.addresses:
                self._by_address.setdefault(address, []).append(certificate)

    def __iter__(self) -> Iterator[Certificate]:
        return iter(self._certificates.values())

    def __len__(self) -> int:
        return len(self._certificates)

    def by_fingerprint(self, fingerprint: str) -> Certificate | None:
        """Return the certificate whose primary key has this fingerprint."""
        return self._certificates.get(fingerprint)

    def holders(self, address: str) -> list[Certificate]:
        """Return the certificates for an Address.key."""
        return self._by_address.get(address, [])

    def find(self, lookup: Lookup, now: datetime) -> list[Certificate]:
        """Return what a lookup asks for, the best first: usable before revoked or expired, then the newest."""
        if lookup.kind in ("fingerprint", "key-id"):
            found = self._by_key.get(lookup.value, [])
        elif lookup.kind == "address":
            found = self.holders(lookup.value)
        else:
            found = [certificate for certificate in self if _mentions(certificate, lookup.value)]
        ordered = sorted(found, key=lambda certificate: (certificate.problem(now) is None, certificate.created))
        return ordered[::-1][:MAX_LISTED]


def restrict(certificate: Certificate, allowed: Callable[[Address], bool]) -> Certificate:
    """Return the certificate without the user IDs whose address is not ``allowed``, or that have none.

    Raises OpenPGPError when no user ID is left: gpg cannot use such a certificate.
    """
    kept = []
    component = True
    for packet in read_packets(certificate.data, MAX_PACKETS):
        if packet.tag == USER_ID:
            address = address_of(packet.body.decode("utf-8", "replace"))
            component = address is not None and allowed(address)
        elif packet.tag == PUBLIC_SUBKEY:
            component = True
        if component:
            kept.append(packet)
    result = Certificate.from_packets(kept)
    if not result.user_ids:
        raise OpenPGPError("unsupported", "the certificate has no valid user ID that may be served here")
    return result


def _handles(fingerprint: str) -> tuple[str, str]:
    # The key id is the end of a version 4 fingerprint and the beginning of later ones, RFC 9580 §5.5.4.
    return fingerprint, fingerprint[-16:] if len(fingerprint) == 40 else fingerprint[:16]


def _mentions(certificate: Certificate, text: str) -> bool:
    return any(text in user_id.lower() for user_id in certificate.user_ids)
