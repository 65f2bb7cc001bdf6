"""The HTTP edge: one URL for all operations, and the two that tell a supervisor how the store is (protocol.md §4)."""

import errno
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from services.post_manager.admission import Gate
from services.post_manager.counters import Counters
from services.post_manager.delivery import ContentGone
from services.post_manager.multipart import MultipartError, parse_boundary
from services.post_manager.operations import JSON, Answer, Operations
from services.post_manager.parts import Parts
from services.post_manager.settings import Network
from services.post_manager.storage import schema
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import Conflict, StorageError, StorageFull
from stubmail.errors import Exit
from stubmail.log import event
from stubmail.request import Refusal

RETRY_AFTER = 30  # seconds, when the database cannot be reached
SKIPPED = 1_048_576  # octets of a refused request's body that are read, so that the client gets to see the answer

_log = logging.getLogger("post_manager")

Allow = Callable[[Any, int], None]  # gives a connection (gunicorn.socket) time to move so many octets


@dataclass(frozen=True, slots=True)
class Edge:
    """What the HTTP edge needs: the parts it hands requests to, and its own limits."""

    gate: Gate
    operations: Operations
    database: Database
    counters: Counters
    prefix: str
    max_request: int
    proxies: tuple[Network, ...] = ()
    allow: Allow = lambda connection, octets: None
    clock: Callable[[], float] = time.time


def create_app(edge: Edge) -> Flask:
    """Return the WSGI application."""
    app = Flask("post_manager", static_folder=None)

    @app.post(f"/{edge.prefix}", provide_automatic_options=False)
    @app.post(f"/{edge.prefix}/", provide_automatic_options=False)
    def store() -> Response:
        parts: Parts | None = None
        try:
            length, boundary = _check_header(edge)
            parts = Parts(_Watched(edge), length, boundary)
            admitted = edge.gate.admit(parts, _remote(edge))
            answer = edge.operations.answer(admitted, parts)
            return _respond(edge, admitted.request.op, answer)
        except Refusal as refusal:
            return _refuse(edge, refusal, parts)
        except StorageFull as error:
            event(_log, "failed", level=logging.ERROR, error=error.text)
            return _refuse(edge, Refusal("no-space", "there is no room for that now"), parts)
        except (StorageError, Conflict) as error:
            event(_log, "failed", level=logging.ERROR, error=error)
            return _refuse(edge, Refusal("unavailable", "the store cannot answer now", RETRY_AFTER), parts)

    @app.get("/livez")
    def livez() -> Response:
        return _json(200, {"status": "alive"})

    @app.get("/readyz")
    def readyz() -> Response:
        try:
            schema.check(edge.database)
        except (StorageError, Exit) as error:
            event(_log, "unready", level=logging.WARNING, error=error)
            return _json(503, {"status": "the database does not answer"})
        return _json(200, {"status": "ready"})

    @app.errorhandler(HTTPException)
    def other(error: HTTPException) -> Response:
        if error.code == 405:
            return _refuse(edge, Refusal("method", "only POST is understood here"), None)
        return _json(error.code or 500, {"error": "not-found", "message": error.name, "time": int(edge.clock())})

    return app


class _Watched:
    """The request's body; each read gets its own time, so that whoever announces much cannot stall for long."""

    def __init__(self, edge: Edge) -> None:
        self._connection = request.environ.get("gunicorn.socket")
        self._stream = request.input_stream
        self._allow = edge.allow

    def read(self, size: int, /) -> bytes:
        self._allow(self._connection, size)
        return self._stream.read(size)


def _check_header(edge: Edge) -> tuple[int, bytes]:
    """The checks that need the header alone (protocol.md §4.3, 1); return the body's length and its boundary."""
    try:
        boundary = parse_boundary(request.headers.get("Content-Type", ""))
    except MultipartError as error:
        raise Refusal("media-type", str(error)) from error
    text = request.environ.get("CONTENT_LENGTH") or ""
    if not (text.isascii() and text.isdigit()) or "HTTP_TRANSFER_ENCODING" in request.environ:
        raise Refusal("length-required", "a request needs a Content-Length, and no transfer encoding")
    length = int(text[:20])
    if length > edge.max_request:
        raise Refusal("too-large", f"a request may have {edge.max_request} octets")
    return length, boundary


def _remote(edge: Edge) -> str:
    """The peer's address; behind a trusted proxy, the one that the proxy names last."""
    remote = request.remote_addr or ""
    try:
        if any(ip_address(remote) in network for network in edge.proxies):
            return request.headers.get("X-Forwarded-For", remote).rpartition(",")[2].strip()
    except ValueError:
        pass
    return remote


def _respond(edge: Edge, op: str, answer: Answer) -> Response:
    edge.counters.add(f"{op} answered")
    if isinstance(answer.body, bytes):
        return Response(answer.body, 200, content_type=answer.media_type)
    # The first piece is made before the status is sent: when the database is gone, it is not 200.
    first = next(answer.body)
    pieces = _stream(edge, request.environ.get("gunicorn.socket"), itertools.chain((first,), answer.body))
    return Response(pieces, 200, content_type=answer.media_type)


def _stream(edge: Edge, connection: object, pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        for piece in pieces:
            edge.allow(connection, len(piece))
            yield piece
    except (StorageError, ContentGone) as error:
        edge.counters.add("fetch broken off")
        event(_log, "broken-off", level=logging.WARNING, error=error or type(error).__name__)
        # The server closes the connection without the last chunk: the client sees that the answer is cut off.
        raise ConnectionResetError(errno.ECONNRESET, "the answer cannot be completed") from error


def _refuse(edge: Edge, refusal: Refusal, parts: Parts | None) -> Response:
    edge.counters.add(f"refused {refusal.code}")
    level = logging.DEBUG if refusal.code == "rate" else logging.INFO
    event(_log, "refused", level=level, reason=refusal.code, detail=refusal.message, peer=_remote(edge))
    if parts is not None:
        parts.skip(SKIPPED)
    response = _json(refusal.status, {"error": refusal.code, "message": refusal.message, "time": int(edge.clock())})
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(refusal.retry_after)
    if refusal.code == "method":
        response.headers["Allow"] = "POST"
    return response


def _json(status: int, data: dict[str, object]) -> Response:
    return Response(json.dumps(data).encode(), status, content_type=JSON)
