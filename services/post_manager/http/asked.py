"""What a request's header says, as far as the store wants to know it (WSGI, PEP 3333)."""

from ipaddress import ip_address
from typing import Any

from services.post_manager.http.multipart import MultipartError, parse_boundary
from services.post_manager.settings import Network
from stubmail.request import Refusal


class Asked:
    """One request, read from its WSGI environment."""

    __slots__ = ("_environ", "connection", "method", "remote", "stream")

    def __init__(self, environ: dict[str, Any], proxies: tuple[Network, ...]) -> None:
        """``proxies``: whose X-Forwarded-For is believed."""
        self._environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.stream = environ["wsgi.input"]
        self.connection = environ.get("gunicorn.socket")
        self.remote = _remote(environ, proxies)

    @property
    def token(self) -> str | None:
        """The token, if there is one (protocol.md §6.6)."""
        return self._environ.get("HTTP_STUB_TOKEN")

    @property
    def boundary(self) -> bytes:
        """What the parts of the body are separated by. Raises Refusal."""
        try:
            return parse_boundary(self._environ.get("CONTENT_TYPE", ""))
        except MultipartError as error:
            raise Refusal("media-type", str(error)) from error

    @property
    def length(self) -> int:
        """Octets of the body. Raises Refusal."""
        text = self._environ.get("CONTENT_LENGTH") or ""
        if not (text.isascii() and text.isdigit()) or "HTTP_TRANSFER_ENCODING" in self._environ:
            raise Refusal("length-required", "a request needs a Content-Length, and no transfer encoding")
        return int(text[:20])


def _remote(environ: dict[str, Any], proxies: tuple[Network, ...]) -> str:
    """The peer's address; behind a trusted proxy, the one that the proxy names last."""
    remote: str = environ.get("REMOTE_ADDR") or ""
    try:
        if proxies and any(ip_address(remote) in network for network in proxies):
            forwarded: str = environ.get("HTTP_X_FORWARDED_FOR", remote)
            return forwarded.rpartition(",")[2].strip()
    except ValueError:
        pass
    return remote
