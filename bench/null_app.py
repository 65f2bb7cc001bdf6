"""A store that does nothing: Flask parses the form and answers. What the store's own work is measured against.

The answer is a line of JSON, or as many zeros as the URL says: /post_manager/NUMBER.

python -m bench.null_app WORKERS THREADS
"""

import logging
import sys

from flask import Flask, Response, request

from stubmail import log, wsgi
from stubmail.wsgi_worker import PatientWorker

_log = logging.getLogger("null")


def make_app() -> Flask:
    """Return the application."""
    app = Flask("null")

    @app.post("/post_manager")
    def null() -> Response:
        return Response(b'{"parts":%d}' % _parse(), 200, content_type="application/json")

    @app.post("/post_manager/<int:octets>")
    def some(octets: int) -> Response:
        _parse()
        return Response(bytes(octets), 200, content_type="application/octet-stream")

    return app


def _parse() -> int:
    return len(request.form) + len(request.files)


def main() -> None:
    """Serve until SIGTERM, as the store does."""
    workers, threads = map(int, sys.argv[1:])
    log.setup()
    listener = wsgi.bind("127.0.0.1", 0)
    log.event(_log, "listening", address=f"127.0.0.1:{listener.getsockname()[1]}")
    wsgi.serve(make_app, listener, worker_class=PatientWorker, workers=workers, threads=threads, keepalive=15)


if __name__ == "__main__":
    main()
