"""Gunicorn's threaded worker, for many small requests: no thread waits for one, and those that come together are served
by one thread, one after the other. What they write can then be written together (stubmail/wsgi_later.py).

The main loop reads a small request until it is whole. Everything else goes to a thread of its own, as ever: what is
larger, asks before it sends, or has no end that the header tells; and, after its first octets, an answer that is long.
"""

import errno
import logging
import re
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from gunicorn.http.errors import NoMoreData
from gunicorn.http.wsgi import Response, create
from gunicorn.workers.gthread import TConn

from stubmail import wsgi_pace
from stubmail.log import event, together
from stubmail.wsgi_later import Later
from stubmail.wsgi_pace import Pace
from stubmail.wsgi_unread import check_host
from stubmail.wsgi_worker import PatientWorker, allow

SMALL = 32_768  # octets of a request, header and all, that the main loop reads
SHORT = 65_536  # octets of an answer's body that can be sent without a thread that waits
TOGETHER = 32  # requests in a batch

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_OTHER = re.compile(rb"\r\n(?:expect|transfer-encoding|upgrade|content-length[ \t]*):", re.IGNORECASE)
_log = logging.getLogger("wsgi")
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)

T = TypeVar("T")


def size_of(data: bytes) -> int | None:
    """Return how many octets the request that ``data`` begins with has; 0 when its header is not whole yet.

    None when that cannot be told, or not by this: then gunicorn has to read it from the connection.
    """
    end = data.find(_END)
    if end < 0:
        return 0
    header = data[: end + 2]
    found = _LENGTH.search(header)
    if len(_OTHER.findall(header)) != (found is not None):
        return None
    return end + len(_END) + (int(found[1]) if found else 0)


class _Dry:
    """Where the parser reads from when the whole request is there: it gets no more."""

    def recv(self, _size: int) -> bytes:
        return b""


class _Outbox:
    """Takes an answer, in the place of the connection."""

    def __init__(self) -> None:
        self.data = bytearray()

    def sendall(self, data: bytes) -> None:
        self.data += data


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request for which the application was called."""

    response: Response
    body: Iterable[bytes]

    @property
    def short(self) -> bool:
        """Whether its answer is."""
        return isinstance(self.body, Later) or (self.response.response_length or SHORT + 1) <= SHORT

    def write(self) -> None:
        """Write the answer, and be done with it."""
        try:
            for item in self.body:
                self.response.write(item)
            self.response.close()
        finally:
            if close := getattr(self.body, "close", None):
                close()


def _future(keep: bool) -> "Future[bool]":
    future: Future[bool] = Future()
    future.set_result(keep)
    return future


_KEEP, _CLOSE = _future(True), _future(False)  # results, as gunicorn's finish_request takes them


class BatchWorker(PatientWorker):
    """A worker whose threads are for what takes time. For plain HTTP/1.1: TLS is a reverse proxy's work."""

    awaits_bodies = True  # false: once the header is there, the application decides whether it wants a body

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._partial: dict[TConn, float] = {}  # connections with a part of a request, and until when they have time
        self._whole: deque[TConn] = deque()  # those with a request to serve
        self._pace = Pace()
        self._pool = ThreadPoolExecutor(wsgi_pace.MOST, "batch")

    def run(self) -> None:
        """As ever, until told to stop."""
        try:
            super().run()
        finally:
            self._pool.shutdown(wait=False)

    def enqueue_req(self, conn: TConn) -> None:
        """Something has come: read it, and have it served when it is a small request, and whole."""
        conn.init()
        data, size, more = self._read(conn)
        conn.parser.unreader.unread(data)
        if size and len(data) >= size:
            self._partial.pop(conn, None)
            self._whole.append(conn)
        elif size is not None and more and len(data) < SMALL and size <= SMALL and (self.awaits_bodies or not size):
            self._partial.setdefault(conn, time.monotonic() + self.patience)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_more, conn))
        else:
            self._partial.pop(conn, None)
            super().enqueue_req(conn)

    def _read(self, conn: TConn) -> tuple[bytes, int | None, bool]:
        """Return what there is of a request, its size, and whether more may come."""
        data: bytes = conn.parser.unreader.take_buffered()
        size = size_of(data)
        if size is None or len(data) >= (size or SMALL):
            return data, size, True
        try:
            part = conn.sock.recv(SMALL, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return data, size, True
        except OSError:  # a thread will see it
            return data, size, False
        data += part
        return data, size_of(data), bool(part)

    def _on_more(self, conn: TConn, client: socket.socket) -> None:
        if conn in self._partial:  # else it was closed since the poller saw that
            self.poller.unregister(client)
            self.enqueue_req(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for what comes, then have a thread serve what is whole."""
        super().wait_for_and_dispatch_events(min(timeout, self._pace.patience(len(self._whole))))
        now = time.monotonic()
        if self._pace.may_begin(len(self._whole), now):
            batch = [self._whole.popleft() for _ in range(min(len(self._whole), TOGETHER))]
            number = self._pace.began(now)
            future = self._pool.submit(self._serve, batch)
            future.add_done_callback(lambda future: self.method_queue.defer(self._finish, number, future))

    def _serve(self, batch: Sequence[TConn]) -> list[tuple[TConn, bool]]:
        """In a thread: serve these; return those that are finished, and whether they can be used again."""
        with together():
            begun = [(conn, self._begin(conn)) for conn in batch]
            served = [(conn, self._end(conn, request) if request is not None else False) for conn, request in begun]
        return [(conn, keep) for conn, keep in served if keep is not None]

    def _finish(self, number: int, future: "Future[list[tuple[TConn, bool]]]") -> None:
        self._pace.ended(number, len(future.result()), len(self._whole))
        for conn, keep in future.result():
            self.finish_request(conn, _KEEP if keep else _CLOSE)

    def _begin(self, conn: TConn) -> _Begun | None:
        """Parse a request and call the application; None when that ended with an error, which has been dealt with."""
        conn.parser.unreader.sock = _Dry()
        try:
            return self._guarded(conn, partial(self._call, conn))
        finally:
            conn.parser.unreader.sock = conn.sock

    def _call(self, conn: TConn) -> _Begun:
        request = next(conn.parser)
        check_host(request)
        response, environ = create(request, conn.sock, conn.client, conn.server, self.cfg)
        environ["wsgi.multithread"] = True
        if not self.alive or not self.cfg.keepalive or len(self.keepalived_conns) >= self.max_keepalived:
            response.force_close()
        return _Begun(response, self.wsgi(environ, response.start_response))

    def _end(self, conn: TConn, begun: _Begun) -> bool | None:
        """Answer; return whether the connection can be used again, None when a thread goes on with it."""
        if not begun.short:
            allow(conn.sock, 0)
            self._in_a_thread(conn, partial(self._guarded, conn, partial(self._write, conn, begun), begun))
            return None
        begun.response.sock = outbox = _Outbox()
        keep = self._guarded(conn, partial(self._write, conn, begun))
        if keep is None:
            return False
        try:
            sent = conn.sock.send(outbox.data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent == len(outbox.data):
            return keep
        allow(conn.sock, len(outbox.data))
        self._in_a_thread(conn, lambda: conn.sock.sendall(outbox.data[sent:]) is None and keep)
        return None

    def _write(self, conn: TConn, begun: _Begun) -> bool:
        """Write the answer; return whether the connection can be used again."""
        begun.write()
        return not begun.response.should_close() and bool(conn.parser.finish_body())

    def _guarded(self, conn: TConn, step: Callable[[], T], begun: _Begun | None = None) -> T | None:
        """Do a step of serving a request; None when it ended with an error, which has been dealt with."""
        try:
            return step()
        except (NoMoreData, StopIteration):
            pass  # nothing more comes
        except OSError as error:
            if error.errno not in _GONE:
                self.log.exception("Socket error processing request.")
        except Exception as error:
            if begun is not None and begun.response.headers_sent:
                self.log.exception("Error handling request")
            else:
                self.handle_error(conn.parser.mesg, conn.sock, conn.client, error)
        return None

    def _in_a_thread(self, conn: TConn, step: Callable[[], Any]) -> None:
        """Have a thread do what may have to wait for the client."""
        conn.sock.setblocking(True)
        future = self.tpool.submit(step)
        future.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))

    def murder_pending(self) -> None:
        """Called about once a second: disconnect also those who are too late with the rest of a request."""
        super().murder_pending()
        now = time.monotonic()
        while self._partial:
            conn, deadline = next(iter(self._partial.items()))  # the oldest, since all are given the same time
            if deadline > now:
                break
            event(_log, "stalled", level=logging.WARNING, seconds=round(self.patience + now - deadline))
            del self._partial[conn]
            self._drop(conn)

    def _close_idle(self) -> bool:
        """Make room for others: who keeps silent goes first, then who has sent a part of a request for longest."""
        if super()._close_idle():
            return True
        if not self._partial:
            return False
        oldest = next(iter(self._partial))
        del self._partial[oldest]
        self._drop(oldest)
        return True
