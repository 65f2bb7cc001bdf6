"""Whom an account gets mail from: its correspondents' certificates as one immutable view of the keyring. Sans-IO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from stubmail.address import Address
from stubmail.openpgp import Certificate


@dataclass(frozen=True, slots=True)
class Senders:
    """The correspondents of one domain: their certificates' fingerprints, and a digest that changes when any does."""

    fingerprints: frozenset[str]
    digest: str


class Contacts:
    """The keyring's certificates of others, found by address and by domain.

    ``correspondents`` holds certificates by Address.key. A user may keep several certificates for one address.
    """

    def __init__(self, correspondents: Mapping[str, Sequence[Certificate]]) -> None:
        self._certificates: dict[str, Certificate] = {}
        self._addresses: dict[str, frozenset[str]] = {}
        by_domain: dict[str, set[str]] = {}
        for key, certificates in correspondents.items():
            self._addresses[key] = frozenset(certificate.fingerprint for certificate in certificates)
            by_domain.setdefault(key.rpartition("@")[2], set()).update(self._addresses[key])
            self._certificates.update((certificate.fingerprint, certificate) for certificate in certificates)
        self.domains: dict[str, Senders] = {
            domain: Senders(frozenset(fingerprints), self._digest(fingerprints))
            for domain, fingerprints in by_domain.items()
        }

    @property
    def count(self) -> int:
        """How many addresses there are."""
        return len(self._addresses)

    def certificates_for(self, address: Address) -> frozenset[str]:
        """The fingerprints that the keyring has for exactly this address."""
        return self._addresses.get(address.key, frozenset())

    def fingerprints(self, address: Address) -> frozenset[str]:
        """The fingerprints that the keyring has for an address, else for its base address; none for a stranger."""
        return self._addresses.get(address.key) or self._addresses.get(address.base.key, frozenset())

    def signer(self, name: str, sender: str) -> Certificate | None:
        """The certificate of ``sender``, when ``name`` is the fingerprint of its primary key or of a subkey of it."""
        certificate = self._certificates.get(sender)
        if certificate is not None and (name == sender or name in certificate.key_fingerprints):
            return certificate
        return None

    def problem(self, fingerprint: str, now: datetime) -> str | None:
        """Why this certificate's signatures must not be believed now: "revoked" or "expired"; None when they may be."""
        certificate = self._certificates.get(fingerprint)
        return certificate.signing_problem(now) if certificate else None

    def _digest(self, fingerprints: set[str]) -> str:
        """Over the whole certificates: one that was renewed or revoked gives what was held another try."""
        digest = sha256()
        for fingerprint in sorted(fingerprints):
            digest.update(f"{fingerprint}\n".encode() + sha256(self._certificates[fingerprint].data).digest())
        return digest.hexdigest()
