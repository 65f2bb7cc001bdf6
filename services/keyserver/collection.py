"""The certificates of one domain and how they are found: by fingerprint, key id, address or part of a user ID. Sans-IO.

A collection is made anew for every change, so whoever reads one needs no lock.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice

from services.keyserver.hkp import MAX_LISTED, Lookup
from stubmail.address import Address
from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.openpgp.certificate import address_of
from stubmail.openpgp.packets import PUBLIC_SUBKEY, USER_ID, read_packets

MAX_PACKETS = 2048  # of one certificate


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate and what it is found by, worked out once: parsing all of them for each change would take seconds.

    ``handles`` are the fingerprints and key ids of all its keys, ``text`` its user IDs in lower case.
    """

    certificate: Certificate
    handles: frozenset[str]
    text: str

    @classmethod
    def of(cls, certificate: Certificate) -> "Entry":
        """Work it out."""
        handles = frozenset(chain.from_iterable(map(_handles, certificate.key_fingerprints)))
        return cls(certificate, handles, "\n".join(certificate.user_ids).lower())


class Collection:
    """Certificates, each fingerprint once."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = {entry.certificate.fingerprint: entry for entry in entries}
        self._by_handle: dict[str, list[Certificate]] = {}
        self._by_address: dict[str, list[Certificate]] = {}
        for entry in self._entries.values():
            for handle in entry.handles:
                self._by_handle.setdefault(handle, []).append(entry.certificate)
            for address in entry.certificate.addresses:
                self._by_address.setdefault(address, []).append(entry.certificate)

    def __iter__(self) -> Iterator[Certificate]:
        return (entry.certificate for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def by_fingerprint(self, fingerprint: str) -> Certificate | None:
        """Return the certificate whose primary key has this fingerprint."""
        entry = self._entries.get(fingerprint)
        return entry.certificate if entry else None

    def holders(self, address: str) -> list[Certificate]:
        """Return the certificates for an Address.key."""
        return self._by_address.get(address, [])

    def find(self, lookup: Lookup, now: datetime) -> list[Certificate]:
        """Return what a lookup asks for, MAX_LISTED at most: usable ones before revoked or expired, then the newest."""
        if lookup.kind in ("fingerprint", "key-id"):
            found = self._by_handle.get(lookup.value, [])
        elif lookup.kind == "address":
            found = self.holders(lookup.value)
        else:
            mentions = (entry.certificate for entry in self._entries.values() if lookup.value in entry.text)
            found = list(islice(mentions, MAX_LISTED))
        found = found[:MAX_LISTED]
        return sorted(found, key=lambda found: (found.problem(now) is None, found.created), reverse=True)


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
