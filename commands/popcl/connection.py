"""The connection to the server: TCP, TLS 1.2 or later with a verified certificate, and a limit on every wait."""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from stubmail.channel_binding import END_POINT, end_point
from stubmail.errors import PermanentError, TemporaryError
from stubmail.limits import is_loopback

T = TypeVar("T")

MAX_ADDRESSES = 8  # of one host that are tried
PIECE = 65_536  # octets read at once
_CERTIFICATES = (".pem", ".crt", ".cer")


class NoHost(PermanentError):
    """The name does not exist."""


class Untrusted(PermanentError):
    """The server's certificate is none that we trust, or not this server's."""


class CertificatesError(PermanentError):
    """The certificates to trust cannot be read."""


class Connection:
    """A connected socket, in the clear until ``start_tls``. Use it as a context manager."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        """Connect to the first address of ``host`` that answers within ``timeout`` seconds. Raises StubmailError."""
        self._host = host
        self._where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._socket = self._connect(host, port, timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encrypted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def __str__(self) -> str:
        return self._where

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        return is_loopback(str(self._socket.getpeername()[0]))

    def binding(self) -> tuple[str, bytes] | None:
        """Return a type of channel binding and its data (RFC 5929); None in the clear, and where there is none.

        tls-exporter (RFC 9266) would need what Python's TLS does not offer.
        """
        if not isinstance(self._socket, ssl.SSLSocket):
            return None
        if self._socket.version() == "TLSv1.2":
            kind, data = "tls-unique", self._socket.get_channel_binding("tls-unique")
        else:
            kind, data = END_POINT, end_point(self._socket.getpeercert(binary_form=True) or b"")
        return (kind, data) if data else None

    def start_tls(self, context: ssl.SSLContext, timeout: float) -> None:
        """Go on under TLS; what was received before must have been understood. Raises Untrusted, StubmailError."""
        self._socket.settimeout(timeout)
        try:
            self._socket = context.wrap_socket(self._socket, server_hostname=self._host.rstrip("."))
        except ssl.SSLCertVerificationError as error:
            text = f"the certificate of {self} is not to be trusted: {error.verify_message or error}"
            raise Untrusted("5.7.5", text) from error
        except ssl.SSLError as error:
            reason = (error.reason or str(error)).replace("_", " ").lower()
            raise PermanentError("5.7.5", f"no TLS with {self}: {reason}") from error
        except OSError as error:
            raise self._lost(error) from error
        self.encrypted = True

    def send(self, octets: bytes, timeout: float) -> None:
        """Send all of it within ``timeout`` seconds. Raises TemporaryError."""
        self._guard(lambda: self._socket.sendall(octets), timeout)

    def receive(self, timeout: float) -> bytes:
        """Return what comes next, at most PIECE octets; wait ``timeout`` seconds at most. Raises TemporaryError."""
        octets = self._guard(lambda: self._socket.recv(PIECE), timeout)
        if not octets:
            raise TemporaryError("4.4.2", f"{self} closed the connection")
        return octets

    def _guard(self, operation: Callable[[], T], timeout: float) -> T:
        try:
            self._socket.settimeout(max(timeout, 0.001))
            return operation()
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> TemporaryError:
        if isinstance(error, TimeoutError):
            return TemporaryError("4.4.2", f"{self} keeps us waiting for too long")
        return TemporaryError("4.4.2", f"the connection to {self} was lost: {error.strerror or error}")

    def _connect(self, host: str, port: int, timeout: float) -> socket.socket:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            text = f"cannot find {host}: {error.strerror}"
            raise (TemporaryError if error.errno == socket.EAI_AGAIN else NoHost)("4.4.3", text) from error
        except (UnicodeError, ValueError) as error:
            raise NoHost("5.1.2", f"{host} is no host name") from error
        failure: OSError | None = None
        for family, kind, protocol, _, address in found[:MAX_ADDRESSES]:
            attempt = socket.socket(family, kind, protocol)
            try:
                attempt.settimeout(timeout)
                attempt.connect(address)
            except OSError as error:
                failure = error
                attempt.close()
            else:
                return attempt
        reason = "no answer" if isinstance(failure, TimeoutError) else failure and failure.strerror
        raise TemporaryError("4.4.1", f"cannot connect to {self}: {reason}")


def tls_context(file: Path | None, directory: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the certificates in a PEM file and a directory, or without both the system's.

    In the directory count files named as c_rehash does and all that end with .pem, .crt or .cer. A server's own
    certificate may be trusted as well as that of its authority. Raises CertificatesError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the certificate and the host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if file is None and directory is None:
        context.load_default_certs()
        return context
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    if file is not None:
        _load(context, file)
    if directory is not None:
        _load_directory(context, directory)
    return context


def _load(context: ssl.SSLContext, file: Path) -> None:
    try:
        file.open("rb").close()  # the TLS library does not say what was wrong with the file
        context.load_verify_locations(cafile=file)
    except ssl.SSLError as error:
        raise CertificatesError("5.7.5", f"{file} holds no certificate in PEM") from error
    except OSError as error:
        raise CertificatesError("5.7.5", f"cannot read {file}: {error.strerror}") from error


def _load_directory(context: ssl.SSLContext, directory: Path) -> None:
    try:
        names = sorted(directory.iterdir())
    except OSError as error:
        raise CertificatesError("5.7.5", f"cannot read {directory}: {error.strerror}") from error
    found = any(len(path.stem) == 8 and path.suffix[1:].isdigit() for path in names)
    context.load_verify_locations(capath=directory)
    for path in names:
        if path.suffix in _CERTIFICATES:
            with suppress(CertificatesError):  # a key may lie beside its certificate
                _load(context, path)
                found = True
    if not found:
        raise CertificatesError("5.7.5", f"{directory} holds no certificates: files that end with .pem, .crt or .cer")
