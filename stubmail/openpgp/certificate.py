"""Certificates: OpenPGP public keys as stub mail stores, compares and uses them."""

from dataclasses import dataclass
from datetime import datetime

MAX_CERTIFICATE = 64 * 1024  # octets, binary; a key with photos or flooded with signatures is cleaned or refused


@dataclass(frozen=True)
class Certificate:
    """One transferable public key (RFC 9580 §10.1), cleaned of everything that its owner did not sign.

    ``data`` is binary, without third-party signatures, user attributes and unknown packets; ``fingerprint`` is whole,
    in upper-case hex; ``user_ids`` are those valid now; ``addresses`` holds Address.key of every one of them that
    holds exactly one address.
    """

    data: bytes
    fingerprint: str
    user_ids: tuple[str, ...]
    addresses: frozenset[str]

    @classmethod
    def parse(cls, data: bytes) -> "Certificate":
        """Read exactly one certificate, binary or ASCII-armoured. Raises OpenPGPError.

        More than one key, a secret key, or more octets than MAX_CERTIFICATE (its armour counted apart) is refused.
        """
        raise NotImplementedError

    def problem(self, now: datetime) -> str | None:
        """Return why the certificate must not be used: "revoked", "expired", "cannot-encrypt"; None when it can be."""
        raise NotImplementedError

    def armored(self) -> bytes:
        """Return the certificate in ASCII armour (RFC 9580 §6), ending in a newline."""
        raise NotImplementedError
