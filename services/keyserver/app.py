"""The HTTP edge of the key server: HKP requests in, the status codes and bodies that gpg understands out."""

import ipaddress
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from threading import Lock

from flask import Flask, Response, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from services.keyserver.directory import Directory
from services.keyserver.hkp import HkpError, format_index, parse_keytext, parse_lookup
from services.keyserver.settings import Network
from services.keyserver.submission import NotAllowedError, Submissions
from stubmail.errors import StubmailError
from stubmail.log import event
from stubmail.openpgp import OpenPGPError
from stubmail.wsgi_unread import Unread

MAX_REQUEST = 128 * 1024  # octets of a POST; a certificate of 64 KB takes some 97 KB armoured and url-encoded
# Who sends one of these speaks for somebody else: a proxy for strangers, a browser for the page that it shows.
_BORROWED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via", "Origin", "Referer", "Sec-Fetch-Site")

_log = logging.getLogger("keyserver")


class Counters:
    """How often what happened, since the start."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[name] += 1

    def format(self) -> str:
        """Return all counts in Prometheus' text format."""
        with self._lock:
            counts = sorted(self._counts.items())
        lines = ["# TYPE keyserver_requests_total counter"]
        lines += [f'keyserver_requests_total{{result="{name}"}} {count}' for name, count in counts]
        return "\n".join(lines) + "\n"


class UnreadByKeyServer(Unread):
    """Answers to requests that the application never sees: its own form, which is plain text, and counted."""

    def __init__(self, counters: Counters) -> None:
        super().__init__()
        self._counters = counters

    def refuse(self, status: int, sentence: str) -> tuple[str, bytes]:
        """Count a refusal, and return the media type and the body that tell of it."""
        self._counters.add(f"refused-{status:d}")
        return super().refuse(status, sentence)


def create_app(
    directory: Directory,
    networks: Sequence[Network],
    *,
    read_only: bool = False,
    counters: Counters | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Flask:
    """Return the WSGI application that serves ``directory``; ``networks`` may bring first certificates.

    ``counters`` are those that its page shows.
    """
    app = Flask("keyserver", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = MAX_REQUEST
    counters = Counters() if counters is None else counters
    submissions = Submissions(directory)

    @app.get("/pks/lookup")
    def lookup() -> Response:
        question = parse_lookup(request.args)
        found = directory.current().find(question, now())
        result = "found" if found else "not-found"
        counters.add(f"{question.op}-{result}")
        event(_log, result, question.value, op=question.op, by=question.kind, certificates=len(found))
        if not found:
            return _text(404, "nothing found")
        if question.op == "index":
            return Response(format_index(found, now()), 200, content_type="text/plain; charset=utf-8")
        # One certificate: whoever asks for an address is not the one to choose between several.
        return Response(found[0].armored(), 200, content_type="application/pgp-keys")

    @app.post("/pks/add")
    def add() -> Response:
        if read_only:
            raise NotAllowedError("this key server takes no certificates")
        data = parse_keytext(request.form)
        certificate, outcome = submissions.add(data, trusted=_is_friend(networks))
        counters.add(outcome)
        event(_log, outcome, certificate.fingerprint, client=request.remote_addr)
        return _text(200, outcome)  # gpg takes any other status, even 201, for a failure

    @app.get("/metrics")
    def metrics() -> Response:
        if not _is_friend(networks):
            return _text(404, "not found")
        gauge = f"# TYPE keyserver_certificates gauge\nkeyserver_certificates {len(directory.current())}\n"
        return Response(gauge + counters.format(), content_type="text/plain; version=0.0.4")

    def failed(error: Exception) -> Response:
        return _refuse(error, counters)

    for kind in (HkpError, StubmailError, HTTPException, ParseException, OSError):
        app.register_error_handler(kind, failed)
    return app


def _refuse(error: Exception, counters: Counters) -> Response:
    status, public, detail = _judge(error)
    counters.add(f"refused-{status}")
    level = logging.ERROR if status >= 500 and status != 501 else logging.INFO
    event(_log, "refused", level=level, status=status, reason=detail, path=request.path, client=request.remote_addr)
    return _text(status, public)


def _judge(error: Exception) -> tuple[int, str, str]:
    """Return the status, what the client is told and what the log is told."""
    if isinstance(error, HkpError):
        return error.status, str(error), str(error)
    if isinstance(error, OpenPGPError):
        return 413 if error.reason == "too-large" else 400, error.text, error.text
    if isinstance(error, NotAllowedError):
        return 403, error.text, error.text
    if isinstance(error, RequestEntityTooLarge):
        return 413, f"a request may have {MAX_REQUEST} octets", "too large"
    if isinstance(error, ParseException):  # the header was HTTP, the body's chunks are not
        return 400, "this is no HTTP", str(error)
    if isinstance(error, HTTPException):
        return error.code or 500, error.name, error.name
    return 503, "try again later", str(error)  # gpg tries again


def _is_friend(networks: Sequence[Network]) -> bool:
    """Whether the client is in one of the networks, and speaks for itself."""
    if any(name in request.headers for name in _BORROWED):
        return False
    try:
        address = ipaddress.ip_address((request.remote_addr or "").partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)


def _text(status: int, text: str) -> Response:
    response = Response(text + "\n", status, content_type="text/plain; charset=utf-8")
    if status == 503:
        response.headers["Retry-After"] = "30"
    return response
