"""What needs no secret key: encryption, detached verification, one ciphertext split for many recipients."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pysequoia

from stubmail.openpgp import nobody, packets
from stubmail.openpgp.certificate import ENGINE_ERRORS, Certificate
from stubmail.openpgp.errors import OpenPGPError
from stubmail.openpgp.message import EncryptedMessage
from stubmail.openpgp.recipient import EncryptionKey, engine_certificate

MAX_SIGNATURE = 16 * 1024  # octets

_VERSION_3 = b"\x03"  # of a PKESK packet, which goes with version 1 of the encrypted data packet


def verify(data: bytes, signature: bytes, certificate: Certificate) -> None:
    """Check a detached binary signature over ``data``. Raises OpenPGPError unless ``certificate`` made it.

    An expired or revoked certificate verifies nothing.
    """
    if problem := certificate.signing_problem(datetime.now(UTC)):
        raise OpenPGPError(problem, f"the signing key {certificate.fingerprint} is {problem}")
    if len(signature) > MAX_SIGNATURE:
        raise OpenPGPError("too-large", f"the signature is larger than {MAX_SIGNATURE} octets")
    if [packet.tag for packet in packets.read_packets(signature, 1)] != [packets.SIGNATURE]:
        raise OpenPGPError("malformed", "this is not one detached signature")
    try:
        parsed = pysequoia.Sig.from_bytes(signature)
        cert = engine_certificate(certificate.data)
        pysequoia.verify(bytes=data, store=lambda _ids: [cert], signature=parsed)
    except ENGINE_ERRORS as error:
        raise OpenPGPError("bad-signature", f"the signature is not a valid one by {certificate.fingerprint}") from error


def encrypt(data: bytes, certificate: Certificate) -> bytes:
    """Encrypt ``data`` to one certificate, unsigned, binary, never compressed. Raises OpenPGPError."""
    return seal_with(None, data, recipient_keys([certificate]))


def _encryption_key(certificate: Certificate, now: datetime) -> EncryptionKey:
    if problem := certificate.problem(now):
        sentence = "cannot be encrypted to" if problem == "cannot-encrypt" else f"is {problem}"
        who = ", ".join(sorted(certificate.addresses)) or "nobody"
        raise OpenPGPError(problem, f"the key {certificate.fingerprint} of {who} {sentence}")
    return next(key for key in certificate.encryption_keys if key.alive(now))


def recipient_keys(recipients: Sequence[Certificate]) -> list[EncryptionKey]:
    """Return the key to encrypt to for each recipient, in their order. Raises OpenPGPError."""
    now = datetime.now(UTC)
    return [_encryption_key(certificate, now) for certificate in recipients]


def seal_with(signer: pysequoia.PySigner | None, data: bytes, keys: Sequence[EncryptionKey]) -> bytes:
    """Encrypt to ``keys``, signed when there is a signer: one PKESK packet for each key, in their order, then SEIPD."""
    if not keys:
        raise ValueError("a message needs a recipient")
    certs = [engine_certificate(key.certificate) for key in keys]
    try:
        message = bytes(pysequoia.encrypt(data, certs, signer=signer, armor=False))
        if next(packets.read_packets(message, 1)).peek(1) != _VERSION_3:
            certs.append(engine_certificate(nobody.CERTIFICATE))
            message = bytes(pysequoia.encrypt(data, certs, signer=signer, armor=False))
            heads, body = split(message)
            message = b"".join([*heads[:-1], body])
    except ENGINE_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise OpenPGPError("unsupported", f"the message cannot be encrypted: {reason}") from error
    return message


def split(ciphertext: bytes) -> tuple[list[bytes], bytes]:
    """Split a binary message into its PKESK packets, in recipient order, and the rest (the SEIPD packet).

    Each head followed by the body is a complete OpenPGP message for one recipient. Raises OpenPGPError.
    """
    message = EncryptedMessage.parse(ciphertext)
    return [key.raw for key in message.session_keys], message.body
