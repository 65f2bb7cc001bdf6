"""OpenPGP (RFC 9580, RFC 4880): one face over two engines, GnuPG and Sequoia."""

import os

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

# Where RUST_BACKTRACE is set, Sequoia would look for the trace of every error: 60 ms for the first one, and who sends
# bad messages has it make many. Children inherit this.
os.environ["RUST_LIB_BACKTRACE"] = "0"
