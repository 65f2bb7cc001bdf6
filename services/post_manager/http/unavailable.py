"""The answer of a store that cannot even begin to look at requests: 503 for each of them (protocol.md §4.4)."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from services.post_manager.http.app import RETRY_AFTER, SKIPPED
from services.post_manager.http.reply import refused
from stubmail.request import Refusal

AWAY = "the store cannot answer now"

_PIECE = 65_536  # octets


def unavailable(
    message: str = AWAY, retry_after: int = RETRY_AFTER, on_refusal: Callable[[], None] = lambda: None
) -> Callable[..., Iterable[bytes]]:
    """Return a WSGI application that refuses everything; ``retry_after`` in seconds, ``on_refusal`` counts."""
    refusal = Refusal("unavailable", message, retry_after)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        on_refusal()
        _skip(environ["wsgi.input"])
        return refused(refusal, time.time())(environ, start_response)

    return app


def _skip(stream: Any) -> None:
    left = SKIPPED
    while left > 0 and (piece := stream.read(min(left, _PIECE))):
        left -= len(piece)
