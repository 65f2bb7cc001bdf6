"""Identities: our own secret keys, unlocked, and what they do with messages."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from stubmail.openpgp.certificate import Certificate


@dataclass(frozen=True)
class Unsealed:
    """What came out of a sealed message: the octets, who signed them (whole primary fingerprint), and when."""

    data: bytes
    signer: str
    signed_at: datetime


class Identity(ABC):
    """A secret key of our own, ready for use."""

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = certificate

    @property
    def fingerprint(self) -> str:
        """The whole fingerprint of the primary key, upper-case hex."""
        return self.certificate.fingerprint

    @abstractmethod
    def sign(self, data: bytes) -> bytes:
        """Return a detached binary signature over ``data``. Raises OpenPGPError."""

    @abstractmethod
    def seal(self, data: bytes, recipients: Sequence[Certificate]) -> bytes:
        """Sign ``data``, encrypt it to every recipient, and return the binary message, never compressed.

        ``gpg --decrypt`` opens it. Raises OpenPGPError when a recipient is revoked, expired or cannot encrypt.
        """

    @abstractmethod
    def decrypt(self, data: bytes, max_size: int) -> bytes:
        """Decrypt a message of which no signature is asked; at most ``max_size`` octets. Raises OpenPGPError."""

    @abstractmethod
    def unseal(self, data: bytes, certificate_of: Callable[[str], Certificate | None], max_size: int) -> Unsealed:
        """Decrypt a message and verify who signed it. Raises OpenPGPError for anything but one valid signature.

        ``certificate_of`` gets the fingerprint or long key id that the signature names, of a primary key or a subkey,
        and returns the certificate to verify with. ``max_size`` bounds the plain text, in octets.
        """
