"""What needs no secret key: encryption, detached verification, one ciphertext split for many recipients."""

from stubmail.openpgp.certificate import Certificate


def verify(data: bytes, signature: bytes, certificate: Certificate) -> None:
    """Check a detached signature, binary or armoured, over ``data``. Raises OpenPGPError unless it is good."""
    raise NotImplementedError


def encrypt(data: bytes, certificate: Certificate) -> bytes:
    """Encrypt ``data`` to one certificate, unsigned, binary. Raises OpenPGPError when it cannot be encrypted to."""
    raise NotImplementedError


def split(ciphertext: bytes) -> tuple[list[bytes], bytes]:
    """Split a binary message into its PKESK packets, in recipient order, and the rest (the SEIPD packet).

    Each head followed by the body is a complete OpenPGP message for one recipient. Raises OpenPGPError.
    """
    raise NotImplementedError
