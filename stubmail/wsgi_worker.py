"""Gunicorn's threaded worker, with an end to the patience for clients that stall on purpose.

Each connection that a thread serves has a deadline: for the request's header, then for as many octets as the
application is about to move. Who misses it is disconnected, and the thread is free again.
"""

import contextlib
import errno
import logging
import selectors
import socket
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from gunicorn.http.message import Request
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from stubmail.log import event
from stubmail.wsgi_unread import Unread, check_host

MIN_RATE = 8_192  # octets a second, on top of the patience

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NOT_NOW = _NO_ROOM | {errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PAUSE = 0.05  # seconds
_UNREAD = 65_536  # octets that a client may still send while his connection ends
_IN_A_ROW, _CHANCE = 2, 0.001  # connections a worker takes before it gives the others so many seconds to take some

_log = logging.getLogger("wsgi")
_deadlines: dict[socket.socket, float] = {}  # of this worker process


def allow(connection: socket.socket | None, octets: int) -> None:
    """Give a connection time to move so many octets from now on; one that nobody watches needs none."""
    if connection in _deadlines:
        _deadlines[connection] = time.monotonic() + PatientWorker.patience + octets / MIN_RATE


class _Awaited:
    """A body whose client waits to be told to send it (RFC 9110 §10.1.1): he is when the application wants it.

    Gunicorn's own worker would tell him at once, also when he is going to be refused for what he announces.
    """

    def __init__(self, reader: Any, connection: socket.socket) -> None:
        self._reader = reader
        self._connection: socket.socket | None = connection

    @property
    def length(self) -> int:
        """Octets that were announced and not read yet; 1 when nobody knows how many they are."""
        return int(getattr(self._reader, "length", 1))

    def read(self, size: int) -> bytes:
        """As gunicorn's readers."""
        connection, self._connection = self._connection, None
        if connection is not None and self.length:  # an empty body is read too, behind the answer
            connection.sendall(_CONTINUE)
        data: bytes = self._reader.read(size)
        return data


@dataclass(slots=True)
class _Parting:
    """What a connection has left whose last answer was sent."""

    until: float
    octets: int = _UNREAD


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker whose threads cannot be held by clients that send or read too slowly."""

    patience = 30.0  # seconds for a header, and for any number of octets
    unread = Unread()  # what clients get when the application has no answer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parting: dict[TConn, _Parting] = {}  # in the order of their ends
        self._taken = 0  # connections in a row
        self._others_first = 0.0  # until when other workers may take the next one

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """As ever, but not for longer than the others have the first chance at new connections."""
        if self._others_first:
            timeout = min(timeout, _CHANCE)
        super().wait_for_and_dispatch_events(timeout)

    def set_accept_enabled(self, enabled: bool) -> None:
        """A worker that ends closes the listening socket at once: with the last one that has it, clients are refused.

        They would wait in the kernel's queue otherwise, for as long as the requests in flight take.
        """
        if enabled and time.monotonic() < self._others_first:
            return
        self._others_first = 0.0
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                listener.close()

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection. No thread waits for its first octets: gunicorn's own worker has one do that."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in _NOT_NOW:
                raise
            if error.errno in _NO_ROOM and not self._close_idle():
                time.sleep(_PAUSE)  # or the listener, readable as it is, would keep this loop busy
            return
        self.nr_conns += 1
        conn = TConn(self.cfg, client, address, listener.getsockname())
        conn.timeout = time.monotonic() + self.patience
        self._give_way()
        self.pending_conns.append(conn)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))
        if self.nr_conns >= self.worker_connections:
            self._close_idle()

    def _give_way(self) -> None:
        """After some connections, let the other workers take the next ones: whoever is awake would take them all."""
        self._taken += 1
        if self.cfg.workers > 1 and self._taken >= _IN_A_ROW and self._accepting:
            self._taken = 0
            self.set_accept_enabled(False)
            self._others_first = time.monotonic() + _CHANCE

    def _close_idle(self) -> bool:
        """Make room for others: close the connection that has kept silent longest. False when none is silent."""
        for conn in self._parting:
            self._part(conn)
            return True
        for idle in (self.pending_conns, self.keepalived_conns):
            if idle:
                self._drop(idle.popleft())
                return True
        return False

    def _drop(self, conn: TConn) -> None:
        """Close a connection that the poller watches."""
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """Have a thread read what has come, unless the connection was closed since the poller saw that."""
        if conn in self.pending_conns:
            super().on_pending_socket_readable(conn, client)

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """As above, for a connection that has been served before."""
        if conn in self.keepalived_conns:
            super().on_client_socket_readable(conn, client)

    def handle(self, conn: TConn) -> Any:
        """In a thread: begin to read a request's header. What a client waited for a thread does not count."""
        _deadlines[conn.sock] = time.monotonic() + self.patience
        return super().handle(conn)

    def handle_request(self, req: Request, conn: TConn) -> Any:
        """The header is there: give as much time for the rest, until the application asks for more."""
        allow(conn.sock, 0)
        check_host(req)
        if req._expected_100_continue:
            req._expected_100_continue = False
            req.body.reader = _Awaited(req.body.reader, conn.sock)
        # A body that was refused unread ends its connection, and the answer says so: to wait for the rest of it would
        # hold the thread.
        wanted = req.should_close
        req.should_close = lambda: wanted() or getattr(req.body.reader, "length", 1) > 0
        return super().handle_request(req, conn)

    def handle_error(self, req: Request | None, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer a request that cannot be read, or that ended with an error, in the form of the service."""
        answer = self.unread.answer(exc, str((addr or ("",))[0]))  # a Unix socket's client has no address
        if answer is None:
            self.log.exception("Error handling request")
            answer = self.unread.failed()
        with contextlib.suppress(OSError):  # what the kernel takes of it; nobody waits for this client
            client.send(answer, socket.MSG_DONTWAIT)

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """The thread is done with this request; was it the last one, the client has a moment to read the answer.

        To close at once would take it from him when something of his was not read (RFC 9112 §9.6). Gunicorn's own
        worker waits for him to hang up, and keeps everybody waiting.
        """
        _deadlines.pop(conn.sock, None)
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
            return
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
        except OSError:  # he is gone
            self.nr_conns -= 1
            conn.close()
            return
        self._parting[conn] = _Parting(time.monotonic() + STOP_KEEPALIVE_LINGER)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_parting, conn))

    def _on_parting(self, conn: TConn, client: socket.socket) -> None:
        """Something came, or he hung up."""
        if (left := self._parting.get(conn)) is None:  # closed since the poller saw that
            return
        try:
            data = client.recv(left.octets)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        left.octets -= len(data)
        if not data or not left.octets:
            self._part(conn)

    def _part(self, conn: TConn) -> None:
        del self._parting[conn]
        self._drop(conn)

    def murder_pending(self) -> None:
        """Called about once a second: disconnect whoever is too late. The thread that waits for him wakes up."""
        now = time.monotonic()
        if not self.alive:  # they keep nobody from ending
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, now + STOP_KEEPALIVE_LINGER)
        super().murder_pending()
        for conn in [conn for conn, left in self._parting.items() if left.until < now]:
            self._part(conn)
        for connection, deadline in list(_deadlines.items()):
            if now > deadline and _deadlines.pop(connection, None) is not None:
                event(_log, "stalled", level=logging.WARNING, seconds=round(self.patience + now - deadline))
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
