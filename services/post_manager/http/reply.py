"""One answer, itself a WSGI application (PEP 3333)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from stubmail.request import Refusal

JSON, OCTETS = "application/json", "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, media type and body: octets whose length is told, or pieces that are sent as they come.

    ``headers`` are those that there are beside Content-Type and Content-Length.
    """

    status: int
    media_type: str
    body: bytes | Iterable[bytes]
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        """Octets of the body, 0 when it comes in pieces."""
        return len(self.body) if isinstance(self.body, bytes) else 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        headers = [("Content-Type", self.media_type), *self.headers]
        if isinstance(self.body, bytes):
            headers.append(("Content-Length", str(len(self.body))))
        start_response(f"{self.status} {HTTPStatus(self.status).phrase}", headers)
        if environ["REQUEST_METHOD"] == "HEAD":  # RFC 9110 §9.3.2
            return []
        return [self.body] if isinstance(self.body, bytes) else self.body


def refused(refusal: Refusal, now: float) -> Reply:
    """Return the answer to a request that is refused, at a Unix time (protocol.md §4.4)."""
    headers = {"Allow": "POST"} if refusal.code == "method" else {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    return _error(refusal.status, refusal.code, refusal.message, now, headers)


def not_found(now: float) -> Reply:
    """Return the answer for a URL that is not the store's, at a Unix time."""
    return _error(404, "not-found", "the store is not here", now, {})


def refusal_body(code: str, message: str, now: float) -> bytes:
    """Return the body of such an answer, which is JSON."""
    return json.dumps({"error": code, "message": message, "time": int(now)}).encode()


def _error(status: int, code: str, message: str, now: float, headers: Mapping[str, str]) -> Reply:
    return Reply(status, JSON, refusal_body(code, message, now), tuple(headers.items()))
