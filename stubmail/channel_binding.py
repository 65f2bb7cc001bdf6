"""What a certificate says of the TLS channels that it is used for: tls-server-end-point (RFC 5929 §4.1)."""

from contextlib import suppress

END_POINT = "tls-server-end-point"


def end_point(certificate: bytes) -> bytes:
    """Return the channel binding's data for a server's certificate (DER); nothing where RFC 5929 does not say which.

    Raises ValueError for what is no certificate.
    """
    from cryptography import x509  # takes its time
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes

    parsed = x509.load_der_x509_certificate(certificate)
    with suppress(UnsupportedAlgorithm):
        algorithm = parsed.signature_hash_algorithm
        if algorithm is not None:  # as with Ed25519
            weak = isinstance(algorithm, hashes.MD5 | hashes.SHA1)
            return parsed.fingerprint(hashes.SHA256() if weak else algorithm)
    return b""
