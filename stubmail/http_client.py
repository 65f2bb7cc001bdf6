"""HTTP to hosts found by our own discovery: pinned addresses, no redirects, no proxies, every size and time bounded.

*Trusts* nobody it talks to: answers are read as they come, raw (a compressed bomb stays compressed), and cut off at
the caller's limit.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from stubmail.discovery import Resolver
from stubmail.errors import TemporaryError

CONNECT_SECONDS = 10.0
PIECE = 65_536  # octets read at once
GRACE_SECONDS = 60.0  # after which an answer has to have come faster than MIN_RATE
MIN_RATE = 1024  # octets a second


class ConnectionLost(TemporaryError):
    """A connection ended before its answer began: on a kept-alive one, a sign that the peer had closed it meanwhile."""


class Body:
    """A request body that is made while it is sent: its length in octets, and the pieces it consists of."""

    def __init__(self, length: int, pieces: Iterable[bytes]) -> None:
        self._length = length
        self._pieces = pieces

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


@dataclass
class Answer:
    """An HTTP answer whose body has still to be read; use it as a context manager, so that its connection is freed."""

    status: int
    headers: Mapping[str, str]
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
        started, received = time.monotonic(), 0
        try:
            for piece in self._response.raw.stream(PIECE, decode_content=False):
                received += len(piece)
                elapsed = time.monotonic() - started
                if elapsed > GRACE_SECONDS and received < MIN_RATE * elapsed:
                    raise TemporaryError("4.4.2", "the answer comes too slowly")
                yield piece
        except (HTTPError, OSError) as error:
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
    Host header and, over TLS, is what the server's certificate is verified for. ``timeout`` is in seconds, for each
    wait on the network.
    """

    def __init__(self, resolver: Resolver, *, timeout: float = 30.0) -> None:
        self._resolver = resolver
        self._timeout = timeout
        self._local = threading.local()

    def get(self, host: str, port: int, path: str, *, tls: bool = False) -> Answer:
        """GET ``path`` (with its query). Raises TemporaryError 4.4.1 when nobody answers, 4.4.2 when it breaks off."""
        return self._request("GET", host, port, path, tls, None, {})

    def post(
        self, host: str, port: int, path: str, body: Body | bytes, media_type: str, *, tls: bool = False
    ) -> Answer:
        """POST a body. Raises as ``get``. A Body whose pieces can be made only once is sent to one address only."""
        return self._request("POST", host, port, path, tls, body, {"Content-Type": media_type})

    def _request(
        self,
        method: str,
        host: str,
        port: int,
        path: str,
        tls: bool,
        body: Body | bytes | None,
        headers: dict[str, str],
    ) -> Answer:
        default = 443 if tls else 80
        headers |= {"Host": host if port == default else f"{host}:{port}", "Accept-Encoding": "identity"}
        failure: Exception | None = None
        for address in self._resolver.addresses(host):
            literal = f"[{address}]" if ":" in address else address
            url = f"{'https' if tls else 'http'}://{literal}:{port}{path}"
            try:
                response = self._session(host if tls else "").request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    timeout=(CONNECT_SECONDS, self._timeout),
                    allow_redirects=False,
                    stream=True,
                )
            except (requests.ConnectTimeout, requests.exceptions.SSLError) as error:
                failure = error
            except requests.ConnectionError as error:
                if _connected(error):
                    raise ConnectionLost("4.4.2", f"{host} closed the connection: {_reason(error)}") from error
                failure = error
            except (requests.RequestException, HTTPError) as error:
                raise TemporaryError("4.4.2", f"{host} does not answer: {_reason(error)}") from error
            else:
                return Answer(response.status_code, response.headers, response)
        raise TemporaryError("4.4.1", f"cannot reach {host} port {port}: {_reason(failure)}") from failure

    def _session(self, tls_host: str) -> requests.Session:
        """This thread's session for plain HTTP, or for TLS with one host."""
        sessions: dict[str, requests.Session] = self._local.__dict__.setdefault("sessions", {})
        if tls_host not in sessions:
            session = requests.Session()
            session.trust_env = False  # no proxies and no .netrc from the environment
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            session.headers.clear()
            session.headers["User-Agent"] = "stubmail"
            session.mount("https://", _NamedAdapter(tls_host))
            sessions[tls_host] = session
        return sessions[tls_host]


class _NamedAdapter(HTTPAdapter):
    """Connects to an IP address and verifies the certificate for a name."""

    def __init__(self, host: str) -> None:
        self._host = host
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, server_hostname=self._host, assert_hostname=self._host, **kwargs)


def _connected(error: BaseException) -> bool:
    """Whether the connection stood already when it failed."""
    text = str(error)
    return "Connection aborted" in text or "Connection broken" in text


def _reason(error: BaseException | None) -> str:
    while error is not None and error.__cause__ is None and error.__context__ is not None:
        error = error.__context__
    return type(error).__name__ if error is None or not str(error) else str(error).rpartition(": ")[2][:200]
