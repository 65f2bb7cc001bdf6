"""An answer that is not made yet: what a WSGI application returns when other requests may go first.

The application has done what it can; the rest is done when the server asks for the answer's first octets. A server that
begins several requests before it asks (stubmail/wsgi_batch.py) lets what they write be written together.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stubmail.steps import Steps, finished

WsgiApp = Callable[..., Iterable[bytes]]


class Later:
    """The body of the answer, itself a WSGI application, that ``steps`` return. A few KiB: nobody streams like this.

    start_response is called when this is iterated, before the first octets (PEP 3333, The start_response() Callable).
    """

    def __init__(self, steps: Steps[WsgiApp], environ: dict[str, Any], start_response: Any) -> None:
        self._steps = steps
        self._environ = environ
        self._start_response = start_response

    def __iter__(self) -> Iterator[bytes]:
        body = finished(self._steps)(self._environ, self._start_response)
        try:
            yield from body
        finally:
            if close := getattr(body, "close", None):
                close()

    def close(self) -> None:
        """The server is done with it, iterated or not."""
        self._steps.close()
