"""The server's side of TLS: its certificate, and sessions without I/O, TLS 1.2 or later (RFC 8314 §4.1)."""

import math
import ssl
from contextlib import suppress
from pathlib import Path

from stubmail.channel_binding import END_POINT, end_point
from stubmail.settings import ConfigError

RECORD = 16_384  # octets in one record at most, RFC 8446 §5.1


class ServerContext(ssl.SSLContext):
    """A context that knows its certificate."""

    end_point = b""
    """The certificate's hash, as the channel binding tls-server-end-point has it (RFC 5929 §4.1)."""
    expires = math.inf
    """When it does, in Unix time."""


def load_certificate(cert: Path | None, key: Path | None) -> ServerContext | None:
    """Return a context for new sessions, or None when no certificate is configured.

    Raises ConfigError when the files cannot be read or do not fit together.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigError("tls_cert and tls_key belong together: one of them is missing")
    for path in (cert, key):  # the TLS library does not say which file it was
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{cert} and {key} are no certificate with its key: {_reason(error)}") from error
    _know(context, cert)
    return context


def _know(context: ServerContext, cert: Path) -> None:
    """Look into a certificate that the TLS library has accepted."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = x509.load_pem_x509_certificates(cert.read_bytes())[0]
    context.expires = certificate.not_valid_after_utc.timestamp()
    context.end_point = end_point(certificate.public_bytes(Encoding.DER))


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: ssl.SSLError | ValueError) -> str:
    reason = getattr(error, "reason", None) or str(error)
    return str(reason).replace("_", " ").lower()


class TlsLayer:
    """One TLS session without I/O: records from the client in, its octets out, and the other way round.

    The connection owns the boundary between clear and encrypted octets this way: what is fed here can only be TLS. It
    also holds no buffers while idle, unlike asyncio's own, which keep a quarter of a megabyte a session.
    """

    __slots__ = ("_context", "_incoming", "_object", "_outgoing", "closed", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        self.closed = False  # by the client: nothing more will come

    def receive(self, records: bytes) -> bytes:
        """Return the octets in what came; afterwards there may be something to ``flush``.

        Raises ssl.SSLError when it is not TLS, or not such as the context allows; an alert can be flushed then.
        """
        self._incoming.write(records)
        octets: list[bytes] = []
        try:
            if not self.established:
                self._object.do_handshake()
                self.established = True
            while data := self._object.read(RECORD):
                octets.append(data)
            self.closed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed = True
        return b"".join(octets)

    def binding(self, kind: str) -> bytes:
        """Return the channel's data for a type of channel binding (RFC 5929), nothing for one that it does not have.

        tls-exporter (RFC 9266) would need what Python's TLS does not offer.
        """
        if kind == END_POINT and isinstance(self._context, ServerContext):
            return self._context.end_point
        if kind == "tls-unique" and self._object.version() == "TLSv1.2":  # RFC 9266 §2: not defined for later ones
            return self._object.get_channel_binding("tls-unique") or b""
        return b""

    def send(self, octets: bytes) -> bytes:
        """Return the records that carry ``octets``, behind what else waited to be flushed."""
        view = memoryview(octets)
        while view:
            view = view[self._object.write(view) :]
        return self.flush()

    def flush(self) -> bytes:
        """Return records that wait to be sent: of the handshake, alerts, key updates."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """Return the records that say that nothing more will follow (close_notify, RFC 8446 §6.1)."""
        with suppress(ssl.SSLError):  # it waits for the client's in vain
            self._object.unwrap()
        return self.flush()
