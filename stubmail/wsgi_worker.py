"""Gunicorn's threaded worker, with an end to the patience for clients that stall on purpose.

Each connection that a thread serves has a deadline: for the request's header, then for as many octets as the
application is about to move. Who misses it is disconnected, and the thread is free again.
"""

import contextlib
import logging
import socket
import time
from concurrent.futures import Future
from typing import Any

from gunicorn.http.message import Request
from gunicorn.workers.gthread import TConn, ThreadWorker

from stubmail.log import event

MIN_RATE = 8_192  # octets a second, on top of the patience

_log = logging.getLogger("wsgi")
_deadlines: dict[socket.socket, float] = {}  # of this worker process


def allow(connection: socket.socket | None, octets: int) -> None:
    """Give a connection time to move so many octets from now on; one that nobody watches needs none."""
    if connection in _deadlines:
        _deadlines[connection] = time.monotonic() + PatientWorker.patience + octets / MIN_RATE


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker whose threads cannot be held by clients that send or read too slowly."""

    patience = 30.0  # seconds for a header, and for any number of octets

    def set_accept_enabled(self, enabled: bool) -> None:
        """A worker that ends closes the listening socket at once: with the last one that has it, clients are refused.

        They would wait in the kernel's queue otherwise, for as long as the requests in flight take.
        """
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                listener.close()

    def handle(self, conn: TConn) -> Any:
        """In a thread: begin to read a request's header. What a client waited for a thread does not count."""
        _deadlines[conn.sock] = time.monotonic() + self.patience
        return super().handle(conn)

    def handle_request(self, req: Request, conn: TConn) -> Any:
        """The header is there: give as much time for the rest, until the application asks for more."""
        allow(conn.sock, 0)
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        """A body that was refused unread ends its connection: to wait for the rest of it would hold the thread."""
        unread = getattr(conn.parser.mesg.body.reader, "length", 1) if keepalive else 1
        return not unread and bool(super()._keepalive_after(conn, keepalive))

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """The thread is done with this request."""
        _deadlines.pop(conn.sock, None)
        super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Called about once a second: disconnect whoever is too late. The thread that waits for him wakes up."""
        super().murder_pending()
        now = time.monotonic()
        for connection, deadline in list(_deadlines.items()):
            if now > deadline and _deadlines.pop(connection, None) is not None:
                event(_log, "stalled", level=logging.WARNING, seconds=round(self.patience + now - deadline))
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
