"""The HTTP edge: one URL for all operations (protocol.md §4)."""

import errno
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from services.post_manager.counters import REFUSED, Counters
from services.post_manager.http.admission import Gate
from services.post_manager.http.asked import Asked
from services.post_manager.http.delivery import ContentGone
from services.post_manager.http.meter import Meter
from services.post_manager.http.operations import Operations
from services.post_manager.http.parts import Parts
from services.post_manager.http.reply import Reply, not_found, refused
from services.post_manager.settings import Network
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import Conflict, StorageError, StorageFull
from services.post_manager.tokens import TokenGate
from stubmail.log import Sparing
from stubmail.request import Refusal
from stubmail.steps import Steps
from stubmail.wsgi_later import Later, WsgiApp

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
    tokens: TokenGate | None = None
    allow: Allow = lambda connection, octets: None
    clock: Callable[[], float] = time.time
    sparing: Sparing = field(default_factory=Sparing)


def create_app(edge: Edge) -> WsgiApp:
    """Return the WSGI application."""
    paths = f"/{edge.prefix}", f"/{edge.prefix}/"

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] not in paths:
            reply = not_found(edge.clock())
        else:
            steps = _serve(edge, Asked(environ, edge.proxies))
            try:
                next(steps)
            except StopIteration as end:
                reply = end.value
            else:
                return Later(steps, environ, start_response)
        return reply(environ, start_response)

    return app


def _serve(edge: Edge, asked: Asked) -> Steps[Reply]:
    """Answer one request; between two steps, others may go first."""
    meter = Meter(edge.counters, asked.remote)
    parts: Parts | None = None
    try:
        if edge.tokens is not None:
            edge.tokens.check(asked.token, asked.remote)
        if asked.method != "POST":
            raise Refusal("method", "only POST is understood here")
        boundary, length = asked.boundary, asked.length
        if length > edge.max_request:
            raise Refusal("too-large", f"a request may have {edge.max_request} octets")
        parts = Parts(_Watched(edge, asked), length, boundary)
        with edge.gate.admit(parts, meter.peer) as admitted:
            meter.op, meter.who = admitted.request.op, admitted.fingerprint
            reply = yield from edge.operations.answer(admitted, parts)
        meter.received = length
        return _respond(edge, meter, reply, asked)
    except Refusal as refusal:
        return _refuse(edge, meter, refusal, parts)
    except StorageFull as error:
        edge.sparing.event(_log, "full", "failed", level=logging.ERROR, error=error.text)
        return _refuse(edge, meter, Refusal("no-space", "there is no room for that now"), parts)
    except (StorageError, Conflict) as error:
        edge.sparing.event(_log, "unavailable", "failed", level=logging.ERROR, error=error)
        return _refuse(edge, meter, Refusal("unavailable", "the store cannot answer now", RETRY_AFTER), parts)


class _Watched:
    """The request's body; each read gets its own time, so that whoever announces much cannot stall for long."""

    def __init__(self, edge: Edge, asked: Asked) -> None:
        self._connection = asked.connection
        self._stream = asked.stream
        self._allow = edge.allow

    def read(self, size: int, /) -> bytes:
        self._allow(self._connection, size)
        data: bytes = self._stream.read(size)
        return data


def _respond(edge: Edge, meter: Meter, reply: Reply, asked: Asked) -> Reply:
    if isinstance(reply.body, bytes):
        meter.finish(len(reply.body))
        return reply
    # The first piece is made before the status is sent: when the database is gone, it is not 200.
    rest = iter(reply.body)
    pieces = _stream(edge, meter, asked.connection, itertools.chain((next(rest),), rest))
    return replace(reply, body=pieces)


def _stream(edge: Edge, meter: Meter, connection: object, pieces: Iterator[bytes]) -> Iterator[bytes]:
    sent, broken = 0, "the client is gone"
    try:
        for piece in pieces:
            edge.allow(connection, len(piece))
            yield piece
            sent += len(piece)
        broken = ""
    except (StorageError, ContentGone) as error:
        broken = str(error) or type(error).__name__
        # The server closes the connection without the last chunk: the client sees that the answer is cut off.
        raise ConnectionResetError(errno.ECONNRESET, "the answer cannot be completed") from error
    finally:
        meter.finish(sent)
        if broken:
            edge.counters.add("fetch broken off")
            edge.sparing.event(_log, "broken", "broken-off", level=logging.WARNING, error=broken, peer=meter.peer)


def _refuse(edge: Edge, meter: Meter, refusal: Refusal, parts: Parts | None = None) -> Reply:
    edge.counters.add(f"refused {refusal.code}")
    code, who = refusal.code, meter.who or None
    edge.sparing.event(_log, code, "refused", reason=code, detail=refusal.message, by=who, peer=meter.peer)
    if parts is not None:
        parts.skip(SKIPPED)
        meter.received = parts.received
    reply = refused(refusal, edge.clock())
    meter.op = REFUSED
    meter.finish(reply.size)
    return reply
