"""Identities: our own secret keys, ready for use, whichever engine can use them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Self

from stubmail.openpgp.certificate import Certificate
from stubmail.openpgp.errors import OpenPGPError

CertificateOf = Callable[[str], Certificate | None]


class Unsealed(NamedTuple):
    """What came out of a sealed message: its text, and the whole fingerprint of the certificate that signed it."""

    data: bytes
    signer: str


class Sealed(NamedTuple):
    """A message to unseal, and who knows the certificate to verify it with (see ``Identity.unseal``)."""

    data: bytes
    certificate_of: CertificateOf


class Identity(ABC):
    """A secret key of our own, ready for use. Usable from several threads."""

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

        It begins with one PKESK packet for each recipient, in their order. ``gpg --decrypt`` opens it. Raises
        OpenPGPError when a recipient is revoked, expired or cannot encrypt.
        """

    def prepare(self) -> None:  # noqa: B027 (most have nothing to prepare)
        """Get ready for a message to decrypt that is on its way; returns at once."""

    @abstractmethod
    def decrypt(self, data: bytes, max_size: int) -> bytes:
        """Decrypt a message of which no signature is asked; at most ``max_size`` octets. Raises OpenPGPError."""

    @abstractmethod
    def unseal(self, data: bytes, certificate_of: CertificateOf, max_size: int) -> Unsealed:
        """Decrypt a message and verify who signed it. Raises OpenPGPError unless one usable certificate did.

        ``certificate_of`` gets the fingerprint or long key ID that a signature names (upper-case hex), of a primary key
        or of a subkey, and returns the certificate to verify with. ``max_size`` bounds the text, in octets.
        """

    def unseal_all(self, messages: Iterable[Sealed], max_size: int) -> Generator[Unsealed | OpenPGPError]:
        """Yield for each message, in order, what ``unseal`` returns or raises.

        Messages may be taken before they are needed, about a MiB of them, and ``certificate_of`` may be asked twice.
        One iterator at a time goes on; a thread closes it before it begins another.
        """
        for sealed in messages:
            try:
                yield self.unseal(sealed.data, sealed.certificate_of, max_size)
            except OpenPGPError as error:
                yield error

    @abstractmethod
    def close(self) -> None:
        """Give up what the identity holds besides memory. It can be used again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def check_usable(self) -> None:
        """Raise OpenPGPError when our own key is revoked or expired: nobody would believe its signatures."""
        if problem := self.certificate.signing_problem(datetime.now(UTC)):
            raise OpenPGPError(problem, f"our own key {self.fingerprint} is {problem}")
