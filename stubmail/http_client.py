"""HTTP to hosts found by our own discovery: pinned addresses, no redirects, no proxies, every size and time bounded.

*Trusts* nobody it talks to: answers are read as they come, raw (a compressed bomb stays compressed), and cut off at
the caller's limit.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError

from stubmail.discovery import Resolver
from stubmail.errors import TemporaryError
from stubmail.pace import PacedPool, PacedTlsPool

CONNECT_SECONDS = 10.0  # for a connection, and for each SEND_PIECE of a body
TRY_SECONDS = 30.0  # after which no further address of a host is tried
SEND_PIECE = 16_384  # octets sent at once
PIECE = 65_536  # octets read at once
MAX_TLS_HOSTS = 32  # to which one thread keeps connections

# What requests, urllib3 and http.client raise when a peer does not keep to HTTP (ValueError: in numbers and names).
_BROKEN = (requests.RequestException, HTTPError, HTTPException, OSError, ValueError)


class ConnectionLost(TemporaryError):
    """A connection ended before its answer began: the peer has seen all of the request, or some of it, or nothing."""


class Body:
    """A request body in pieces, which are not copied. It can be sent again."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._length = sum(map(len, pieces))
        self.begun = False  # whether some of it was sent

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[memoryview]:
        """Yield it in small pieces, since the time that one piece may take is limited."""
        self.begun = True
        for piece in self._pieces:
            view = memoryview(piece)
            yield from (view[start : start + SEND_PIECE] for start in range(0, len(view), SEND_PIECE))


@dataclass
class Answer:
    """An HTTP answer whose body has still to be read; use it as a context manager, so that its connection is freed."""

    status: int
    headers: Mapping[str, str]
    address: str  # the IP address that answered
    _response: requests.Response

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    @property
    def media_type(self) -> str:
        """The content type in lower case, without parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes. Raises TemporaryError when it breaks off, stalls or trickles."""
        try:
            while piece := self._response.raw.read1(PIECE, decode_content=False):
                yield piece
        except _BROKEN as error:
            raise TemporaryError("4.4.2", f"the answer broke off: {_reason(error)}") from error

    def read(self, max_size: int) -> bytes:
        """Return the whole body. Raises TemporaryError when it is over ``max_size`` octets or breaks off."""
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > max_size:
                raise TemporaryError("4.3.0", f"the answer is over {max_size} octets")
        return bytes(body)


class HttpClient:
    """Keeps connections for a process; safe to use from several threads.

    A host is reached only at the addresses that ``resolver`` gives for it, each tried in turn; its name goes into the
    Host header and, over TLS, is what the server's certificate is verified for, by the authorities in ``ca_file``
    (PEM; default: those that requests brings). ``timeout`` is in seconds, for each wait for an answer.
    """

    def __init__(self, resolver: Resolver, *, timeout: float = 30.0, ca_file: str | None = None) -> None:
        self.resolver = resolver
        self._timeout = timeout
        self._verify: str | bool = ca_file or True
        self._local = threading.local()

    def get(self, host: str, port: int, path: str, *, tls: bool = False) -> Answer:
        """GET ``path`` (with its query). Raises TemporaryError 4.4.1 when nobody answers, 4.4.2 when it breaks off."""
        return self._request("GET", host, port, path, tls, None, {})

    def post(
        self,
        host: str,
        port: int,
        path: str,
        body: Body | bytes,
        media_type: str,
        *,
        tls: bool = False,
        fields: Mapping[str, str] | None = None,
    ) -> Answer:
        """POST a body, with further header fields. Raises as ``get``; no other address is tried once some of the body
        was sent."""
        if isinstance(body, bytes):
            body = Body([body])
        return self._request("POST", host, port, path, tls, body, {"Content-Type": media_type, **(fields or {})})

    def _request(
        self, method: str, host: str, port: int, path: str, tls: bool, body: Body | None, headers: dict[str, str]
    ) -> Answer:
        name = _bracketed(host)
        headers["Host"] = name if port == (443 if tls else 80) else f"{name}:{port}"
        headers |= {"Accept-Encoding": "identity", "User-Agent": "stubmail"}
        failure: BaseException | None = None
        end = time.monotonic() + TRY_SECONDS
        for address in self.resolver.addresses(host):
            if failure is not None and time.monotonic() >= end:
                break
            url = f"{'https' if tls else 'http'}://{_bracketed(address)}:{port}{path}"
            if body is not None:
                body.begun = False
            adapter = self._adapter(host if tls else "")
            try:
                response = adapter.send(
                    requests.Request(method, url, headers, data=body).prepare(),
                    stream=True,
                    timeout=(CONNECT_SECONDS, self._timeout),
                    verify=self._verify,
                )
            except _BROKEN as error:
                if _lost(error):
                    adapter.close()  # what else is kept may be as dead, and another request gets a new connection
                    raise ConnectionLost("4.4.2", f"{host} closed the connection: {_reason(error)}") from error
                if not _unreached(error) or (body is not None and body.begun):
                    raise TemporaryError("4.4.2", f"{host} does not answer: {_reason(error)}") from error
                failure = error
            else:
                return Answer(response.status_code, response.headers, address, response)
        raise TemporaryError("4.4.1", f"cannot reach {host} port {port}: {_reason(failure)}") from failure

    def _adapter(self, tls_host: str) -> "_Adapter":
        """This thread's connections, over plain HTTP or over TLS to one host."""
        adapters: dict[str, _Adapter] = self._local.__dict__.setdefault("adapters", {})
        if tls_host not in adapters:
            if len(adapters) > MAX_TLS_HOSTS:
                adapters.pop(next(iter(adapters))).close()
            adapters[tls_host] = _Adapter(tls_host)
        return adapters[tls_host]


class _Adapter(HTTPAdapter):
    """Connects to an IP address and verifies the certificate for a name. A Session would follow redirects a little:
    it reads the whole body of one, however long, also when told not to follow it.
    """

    def __init__(self, tls_host: str) -> None:
        self._tls_host = tls_host
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._tls_host:
            kwargs |= {"server_hostname": self._tls_host, "assert_hostname": self._tls_host}
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": PacedPool, "https": PacedTlsPool}

    def close(self) -> None:
        """Close the connections that wait to be used again, at once; those in use are closed when they are given back.

        Without these steps they would stay open until nothing refers to their pools any more.
        """
        for key in self.poolmanager.pools.keys():  # noqa: SIM118 - it is no dictionary
            if (pool := self.poolmanager.pools.get(key)) is not None:
                pool.close()
        super().close()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _lost(error: BaseException) -> bool:
    """Whether an established connection ended without an answer; urllib3 says so with ProtocolError(text, cause)."""
    inner = error.args[0] if error.args else None
    return isinstance(inner, ProtocolError) and any(isinstance(arg, ConnectionError) for arg in inner.args)


def _unreached(error: BaseException) -> bool:
    """Whether no connection came about, so that the next address is worth a try."""
    return bool(error.args) and isinstance(error.args[0], MaxRetryError)


def _reason(error: BaseException | None) -> str:
    """The innermost error's own words."""
    while error is not None and (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if error is None:
        return "no address"
    return str(getattr(error, "strerror", None) or error)[:200] or type(error).__name__
