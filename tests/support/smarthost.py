"""A smarthost on loopback that answers each command as a test wants it, and remembers what it was given."""

import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class FakeSmarthost:
    """``reply`` returns the answer to a command line, or None for the usual one; an empty answer ends the connection.

    ``commands`` are the lines that came, ``messages`` the texts, dots unstuffed; ``offers`` what EHLO says.
    """

    reply: Callable[[str], str | None] = lambda _: None
    offers: list[str] = field(default_factory=lambda: ["SIZE 1000000", "8BITMIME", "SMTPUTF8", "PIPELINING"])
    commands: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    port: int = 0
    break_after: int | None = None  # octets of the text after which it dies

    def answer(self, line: str) -> str:
        """Return what to say to a command."""
        self.commands.append(line)
        chosen = self.reply(line)
        if chosen is not None:
            return chosen
        verb = line.partition(" ")[0].upper()
        if verb == "EHLO":
            lines = ["smart.example", *self.offers]
            return "\r\n".join([f"250-{each}" for each in lines[:-1]] + [f"250 {lines[-1]}"])
        return {"DATA": "354 go on", "QUIT": "221 bye", "STARTTLS": "220 go on", "AUTH": "235 welcome"}.get(
            verb, "250 ok"
        )


@contextmanager
def serving(smarthost: FakeSmarthost) -> Iterator[FakeSmarthost]:
    """Serve on a free port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._file, self._send = self.rfile, self.request.sendall
            if smarthost.implicit_tls:
                self._start_tls()
            self._say(smarthost.answer("(connect)").replace("250 ok", "220 smart.example ESMTP"))
            while line := self._file.readline():
                reply = smarthost.answer(line.decode().rstrip("\r\n"))
                if not reply:
                    return
                self._say(reply)
                if reply.startswith("354"):
                    reply = self._message()
                    if not reply:
                        return
                    self._say(reply)
                if reply.startswith("221"):
                    return
                if line.upper().startswith(b"STARTTLS") and reply.startswith("220"):
                    self._start_tls()

        def _message(self) -> str:
            text = bytearray()
            while (line := self._file.readline()) != b".\r\n":
                if not line:
                    return ""
                text += line.removeprefix(b".")
                if smarthost.break_after is not None and len(text) > smarthost.break_after:
                    return ""
            smarthost.messages.append(bytes(text))
            return smarthost.answer("(message)")

        def _say(self, reply: str) -> None:
            self._send(reply.encode() + b"\r\n")

        def _start_tls(self) -> None:
            assert smarthost.tls is not None
            self.request = smarthost.tls.wrap_socket(self.request, server_side=True)
            self._file, self._send = self.request.makefile("rb"), self.request.sendall

        def finish(self) -> None:
            self._file.close()
            self.request.close()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that breaks off is part of the test."""

    with Server(("127.0.0.1", 0), Handler) as server:
        smarthost.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield smarthost
        finally:
            server.shutdown()
            thread.join()
