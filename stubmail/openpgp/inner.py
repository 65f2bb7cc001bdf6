"""What is inside an encrypted message once GnuPG has taken the encryption off: unpacked and verified within bounds."""

import bz2
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pysequoia

from stubmail.openpgp import packets
from stubmail.openpgp.certificate import ENGINE_ERRORS, Certificate
from stubmail.openpgp.errors import OpenPGPError
from stubmail.openpgp.gnupg import GnuPG
from stubmail.openpgp.packets import Packet
from stubmail.openpgp.recipient import engine_certificate

MAX_INNER_PACKETS = 66  # one literal data packet and two for each of up to 32 signatures, with a little room
OVERHEAD = 256 * 1024  # octets that signatures and headers may add to a text

CertificateOf = Callable[[str], Certificate | None]


class SignerLookup:
    """Finds the certificates for the keys that a signature names, and remembers why there was none."""

    def __init__(self, certificate_of: CertificateOf) -> None:
        self._certificate_of = certificate_of
        self._now = datetime.now(UTC)
        self.found: list[Certificate] = []
        self._refusal: OpenPGPError | None = None
        self.asked = False

    def __call__(self, handles: Sequence[str]) -> list[bytes]:
        """Return the usable certificates for these fingerprints or key IDs."""
        self.asked = True
        for handle in handles:
            certificate = self._certificate_of(handle.upper())
            if certificate is None:
                self._refusal = OpenPGPError("unknown-signer", f"it is signed by the unknown key {handle.upper()}")
            elif problem := certificate.signing_problem(self._now):
                self._refusal = OpenPGPError(problem, f"the signing key {certificate.fingerprint} is {problem}")
            elif certificate not in self.found:
                self.found.append(certificate)
        return [certificate.data for certificate in self.found]

    @property
    def refusal(self) -> OpenPGPError | None:
        """Why no signature can be valid; None when there is a usable certificate, or nobody has asked."""
        if self.found or not self.asked:
            return None
        return self._refusal or OpenPGPError("unsigned", "the message is not signed")

    def one_of(self, fingerprints: Sequence[str]) -> str:
        """Return the one fingerprint of those who signed validly. Raises OpenPGPError when there are several."""
        signers = {fingerprint.upper() for fingerprint in fingerprints}
        if len(signers) != 1 or not signers <= {found.fingerprint for found in self.found}:
            raise OpenPGPError("bad-signature", "it does not have exactly one valid signer")
        return signers.pop()


def read_text(content: bytes, max_size: int) -> bytes:
    """Return the text in decrypted packets, whatever signatures they hold; at most ``max_size`` octets."""
    return _message(content, max_size)[1]


def read_signed(content: bytes, lookup: SignerLookup, max_size: int, gnupg: GnuPG) -> tuple[bytes, str]:
    """Return the text in decrypted packets and the fingerprint of its one valid signer. Raises OpenPGPError.

    Sequoia verifies. It asks whether the key was bound when the signature was made and finds no answer once the owner
    has renewed his self-signatures, as gpg does to change an expiry date; so GnuPG is asked before refusing.
    """
    parts, text = _message(content, max_size)
    if len(parts) == 1:
        raise OpenPGPError("unsigned", "the message is not signed")
    message = b"".join(part.raw for part in parts)
    try:
        result = pysequoia.verify(message, lambda ids: [engine_certificate(data) for data in lookup(ids)])
    except ENGINE_ERRORS:
        if lookup.refusal:
            raise lookup.refusal from None
        if len(lookup.found) != 1:
            raise OpenPGPError("bad-signature", "it has no valid signature") from None
        signer = lookup.found[0]
        gnupg.verify(message, signer.data, signer.fingerprint)
        return text, signer.fingerprint
    return text, lookup.one_of([signature.certificate for signature in result.valid_sigs])


def _message(content: bytes, max_size: int) -> tuple[list[Packet], bytes]:
    """Return the packets of a signed or plain message (RFC 9580 §10.3), unpacked, and its text."""
    parts = _packets(content)
    if [part.tag for part in parts] == [packets.COMPRESSED]:
        parts = _packets(_decompress(parts[0].body, max_size + OVERHEAD))
    tags = [part.tag for part in parts]
    count = len(tags) // 2
    one_pass = [packets.ONE_PASS] * count + [packets.LITERAL] + [packets.SIGNATURE] * count
    prefixed = [packets.SIGNATURE] * (len(tags) - 1) + [packets.LITERAL]
    if tags not in (one_pass, prefixed):
        raise OpenPGPError("malformed", "the message is of an unknown shape")
    text = _text(parts[tags.index(packets.LITERAL)].body)
    if len(text) > max_size:
        raise OpenPGPError("too-large", f"the message is larger than {max_size} octets")
    return parts, text


def _packets(content: bytes) -> list[Packet]:
    return [part for part in packets.read_packets(content, MAX_INNER_PACKETS) if part.tag != packets.MARKER]


def _text(literal: bytes) -> bytes:
    """Return what follows the header of a literal data packet: format, file name, date (RFC 9580 §5.9)."""
    header = 2 + literal[1] + 4 if len(literal) > 1 else 0
    if not 0 < header <= len(literal):
        raise OpenPGPError("malformed", "the message's text is cut off")
    return literal[header:]


def _decompress(body: bytes, limit: int) -> bytes:
    """Unpack a compressed data packet (RFC 9580 §5.6), one level, to at most ``limit`` octets."""
    algorithm, data = body[:1], body[1:]
    try:
        if algorithm == b"\0":
            return data
        if algorithm == b"\1":
            result = zlib.decompressobj(-15).decompress(data, limit + 1)
        elif algorithm == b"\2":
            result = zlib.decompressobj().decompress(data, limit + 1)
        elif algorithm == b"\3":
            result = bz2.BZ2Decompressor().decompress(data, limit + 1)
        else:
            raise OpenPGPError("unsupported", "the message is compressed in an unknown way")
    except (zlib.error, OSError) as error:
        raise OpenPGPError("malformed", "the compressed message is damaged") from error
    if len(result) > limit:
        raise OpenPGPError("too-large", "the message is a compressed one, and too large")
    return result
