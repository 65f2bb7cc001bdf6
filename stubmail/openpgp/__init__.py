"""OpenPGP (RFC 9580, RFC 4880): one face over two engines, GnuPG and Sequoia."""

from stubmail.openpgp.certificate import MAX_CERTIFICATE, Certificate
from stubmail.openpgp.errors import OpenPGPError, Reason
from stubmail.openpgp.identity import CertificateOf, Identity, Sealed, Unsealed
from stubmail.openpgp.operations import encrypt, split, verify

__all__ = [
    "MAX_CERTIFICATE",
    "Certificate",
    "CertificateOf",
    "Identity",
    "OpenPGPError",
    "Reason",
    "Sealed",
    "Unsealed",
    "encrypt",
    "split",
    "verify",
]
