"""A WSGI application for the batch worker's tests, served on a port that it prints, with one thread a worker.

python -m tests.support.batch_app WORKERS
"""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from stubmail import wsgi
from stubmail.steps import Steps
from stubmail.wsgi_batch import BatchWorker
from stubmail.wsgi_later import Later
from stubmail.wsgi_worker import PatientWorker
from tests.support.ports import LOOPBACK

PATIENCE = 2.0  # seconds
LONG = 30_000_000  # octets
_begun = 0  # requests for /together that wait for their second step
_lock = threading.Lock()


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer by path: how many octets came; the same, later; errors; a long answer."""
    path = environ["PATH_INFO"]
    if path == "/together":
        steps = together()
        next(steps)
        return Later(steps, environ, start_response)
    if path == "/who":
        return plain(start_response, b"%d" % os.getpid())
    if path == "/unread":
        return plain(start_response, b"unread")
    length = len(environ["wsgi.input"].read())
    if path == "/error":
        raise RuntimeError("on purpose")
    if path == "/error-later":
        return Later(failing(), environ, start_response)
    if path == "/long":
        return long(start_response)
    return plain(start_response, b"%d" % length)


def plain(start_response: Any, body: bytes) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def long(start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(LONG))])
    for _ in range(LONG // 10_000):
        yield bytes(10_000)


def together() -> Steps[Any]:
    """Answer how many requests had begun when the first of them went on."""
    global _begun
    with _lock:
        _begun += 1
    yield
    with _lock:
        number, _begun = _begun, _begun - 1
    return lambda environ, start_response: plain(start_response, b"%d" % number)


def failing() -> Steps[Any]:
    yield
    raise RuntimeError("on purpose, later")


if __name__ == "__main__":
    listener = wsgi.bind(LOOPBACK, 0)
    print(listener.getsockname()[1], flush=True)
    PatientWorker.patience = PATIENCE
    wsgi.serve(lambda: app, listener, worker_class=BatchWorker, workers=int(sys.argv[1]), threads=1, keepalive=15)
