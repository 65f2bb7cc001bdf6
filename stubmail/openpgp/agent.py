"""The identity whose secret key stays with GnuPG: a hundred operations a second, and nothing that gpg cannot do."""

from collections.abc import Sequence

from stubmail.openpgp import inner
from stubmail.openpgp.certificate import Certificate
from stubmail.openpgp.gnupg import GnuPG
from stubmail.openpgp.identity import CertificateOf, Identity, Unsealed
from stubmail.openpgp.inner import SignerLookup
from stubmail.openpgp.message import EncryptedMessage
from stubmail.openpgp.operations import recipient_keys


class AgentIdentity(Identity):
    """A key that only GnuPG can use: its agent has it unlocked, or it is on a card."""

    def __init__(self, certificate: Certificate, gnupg: GnuPG, passphrase: str | None = None) -> None:
        """``passphrase`` (or a PIN) is for the agent; None leaves it to what the agent remembers, or to the user."""
        super().__init__(certificate)
        self._gnupg = gnupg
        self._passphrase = passphrase

    def sign(self, data: bytes) -> bytes:
        self.check_usable()
        return self._gnupg.sign(data, self.fingerprint, self._passphrase)

    def seal(self, data: bytes, recipients: Sequence[Certificate]) -> bytes:
        self.check_usable()
        keys = recipient_keys(recipients)
        certificates = list(dict.fromkeys(key.certificate for key in keys))
        message = self._gnupg.seal(data, self.fingerprint, certificates, self._passphrase)
        return EncryptedMessage.parse(message).in_order([key.key_id for key in keys])

    def decrypt(self, data: bytes, max_size: int) -> bytes:
        return inner.read_text(self._unwrap(data), max_size)

    def unseal(self, data: bytes, certificate_of: CertificateOf, max_size: int) -> Unsealed:
        return Unsealed(*inner.read_signed(self._unwrap(data), SignerLookup(certificate_of), max_size, self._gnupg))

    def close(self) -> None:
        """Do nothing: the agent belongs to the user."""

    def _unwrap(self, data: bytes) -> bytes:
        message = EncryptedMessage.parse(data)
        key_ids = {fingerprint[-16:] for fingerprint in self.certificate.key_fingerprints}
        return self._gnupg.unwrap(message.only_for(key_ids), self.fingerprint, self._passphrase)
