"""What a client is told whose request never came to the application's answer: the service's own kind of refusal.

Gunicorn would send a page of HTML.
"""

import logging
from http import HTTPStatus

from gunicorn.http.errors import InvalidHeader, ParseException
from gunicorn.http.message import Request

from stubmail.log import Sparing

FAILED = HTTPStatus.INTERNAL_SERVER_ERROR

# By their names: an older gunicorn lacks some. All others that it has are status 400.
_KINDS = {
    "LimitRequestLine": (HTTPStatus.REQUEST_URI_TOO_LONG, "the request line is too long"),
    "LimitRequestHeaders": (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "the header has too many fields, or too large ones",
    ),
    "UnsupportedTransferCoding": (HTTPStatus.NOT_IMPLEMENTED, "no transfer coding but chunked is known here"),
    "ExpectationFailed": (HTTPStatus.EXPECTATION_FAILED, "no expectation but 100-continue is met here"),
    "InvalidHTTPVersion": (HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "another version of HTTP is spoken here"),
}
_OWN_MISTAKES = ("ConfigurationProblem", "InvalidResponseHeader", "InvalidResponseHeaderName")

_log = logging.getLogger("wsgi")


class Unread:
    """Says what is wrong as plain text, and logs it. Services count it, too, and have forms of their own."""

    def __init__(self) -> None:
        self._sparing = Sparing()

    def refuse(self, status: int, sentence: str) -> tuple[str, bytes]:
        """Return the media type and the body of an answer; status FAILED is for what is not the client's mistake."""
        return "text/plain; charset=utf-8", f"{sentence}\n".encode()

    def answer(self, error: Exception, peer: str) -> bytes | None:
        """Return the whole answer to a request that gunicorn refuses; None when the mistake is not the client's."""
        name = type(error).__name__
        if not isinstance(error, ParseException) or name in _OWN_MISTAKES:
            return None
        status, sentence = _KINDS.get(name, (HTTPStatus.BAD_REQUEST, "this is no HTTP request"))
        self._sparing.event(_log, "unread", "refused", status=int(status), reason=f"{name}: {error}", peer=peer)
        return self._response(status, sentence)

    def failed(self) -> bytes:
        """Return the whole answer to a request that nothing was wrong with."""
        return self._response(FAILED, "the server could not complete this request")

    def _response(self, status: HTTPStatus, sentence: str) -> bytes:
        media_type, body = self.refuse(status, sentence)
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Connection: close",
            f"Content-Type: {media_type}",
            f"Content-Length: {len(body)}",
        )
        return "\r\n".join((*lines, "", "")).encode() + body


def check_host(request: Request) -> None:
    """Raise gunicorn's InvalidHeader unless a request names one host, as HTTP/1.1 demands (RFC 9112 §3.2)."""
    hosts = sum(name == "HOST" for name, _ in request.headers)
    if hosts > 1 or (not hosts and request.version >= (1, 1)):
        raise InvalidHeader("HOST", req=request)
