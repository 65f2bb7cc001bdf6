"""A POP3 server that says what the test tells it to, sensible or not, and keeps what it was told."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from tests.support.pop3d import CERT, KEY
from tests.support.ports import LOOPBACK

Reply = bytes | None | Callable[[socket.socket], None]


def multi(*lines: bytes) -> bytes:
    """A reply of several lines."""
    return b"+OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b".\r\n"


def maildrop(*messages: bytes) -> dict[bytes, Reply]:
    """Replies that serve these messages, which end with CRLF and need no byte-stuffing."""
    replies: dict[bytes, Reply] = {
        b"STAT": b"+OK %d %d\r\n" % (len(messages), sum(map(len, messages))),
        b"LIST": multi(*(b"%d %d" % (number, len(message)) for number, message in enumerate(messages, 1))),
    }
    for number, message in enumerate(messages, 1):
        replies[b"RETR %d" % number] = b"+OK\r\n" + message + b".\r\n"
        replies[b"DELE %d" % number] = b"+OK\r\n"
    return replies


class ScriptedPop3:
    """Serves connections one after the other.

    ``replies`` are found by the whole command, else by its first word; without one the server says -ERR. None hangs
    up; b"" says nothing; a callable gets the socket and does what it likes with it.
    """

    def __init__(
        self, replies: dict[bytes, Reply] | None = None, greeting: bytes = b"+OK ready\r\n", *, tls: bool = False
    ) -> None:
        self.replies: dict[bytes, Reply] = {
            b"USER": b"+OK\r\n",
            b"PASS": b"+OK\r\n",
            b"QUIT": b"+OK bye\r\n",
            **(replies or maildrop()),
        }
        self.greeting = greeting
        self.commands: list[bytes] = []
        self.errors: list[BaseException] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERT, KEY)
        self._tls = tls
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert self.errors == []

    def verbs(self) -> list[bytes]:
        """The commands' first words."""
        return [command.split(b" ")[0] for command in self.commands]

    def start_tls(self, connection: socket.socket) -> socket.socket:
        """Begin TLS on a connection."""
        return self._context.wrap_socket(connection, server_side=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            try:
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    self._talk(connection)
            except BaseException as error:
                self.errors.append(error)
            finally:
                self._open.remove(connection)
                connection.close()

    def _talk(self, raw: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(self.start_tls(raw)) if self._tls else raw
            connection.sendall(self.greeting)
            lines = stack.enter_context(connection.makefile("rb"))
            while line := lines.readline():
                command = line.rstrip(b"\r\n")
                self.commands.append(command)
                reply = self.replies.get(command, self.replies.get(command.split(b" ")[0], b"-ERR what?\r\n"))
                if reply is None:
                    return
                if callable(reply):
                    reply(connection)
                    return
                connection.sendall(reply)
                if command == b"STLS" and reply.startswith(b"+OK"):
                    connection = stack.enter_context(self.start_tls(connection))
                    lines = stack.enter_context(connection.makefile("rb"))


def endless(pieces: Iterable[bytes]) -> Callable[[socket.socket], None]:
    """A reply that sends pieces for as long as the client listens."""

    def send(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return send
