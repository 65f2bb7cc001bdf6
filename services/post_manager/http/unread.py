"""Refusals of requests that the application never sees, or that it fails at: in the store's own form, and counted."""

import time
from collections.abc import Callable
from http import HTTPStatus

from services.post_manager.counters import FAILED, HTTP, Counters
from services.post_manager.http.reply import JSON, refusal_body
from stubmail.wsgi_unread import Unread


class UnreadByStore(Unread):
    """Answers as the store does to what it refuses (protocol.md §4.4), with codes that are not in its table."""

    def __init__(self, counters: Counters, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._counters = counters
        self._clock = clock

    def refuse(self, status: int, sentence: str) -> tuple[str, bytes]:
        """Count a refusal, and return the media type and the body that tell of it."""
        code = FAILED if status == HTTPStatus.INTERNAL_SERVER_ERROR else HTTP
        self._counters.add(f"refused {code}")
        return JSON, refusal_body(code, sentence, self._clock())
