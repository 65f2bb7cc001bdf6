"""A loopback HTTP server that does exactly what a test's script says, octet by octet, however wrong."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support.ports import LOOPBACK

PATIENCE = 30.0  # seconds; only a broken test waits that long


@dataclass(frozen=True)
class Seen:
    """One request as it arrived: ``headers`` in order, names in lower case, nothing merged."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of one header."""
        return [value for header, value in self.headers if header == name]


class Connection:
    """The server's side of one accepted connection."""

    def __init__(self, sock: socket.socket, seen: list[Seen]) -> None:
        self._sock = sock
        self._buffer = b""
        self._seen = seen

    def read_head(self) -> None:
        """Read up to the end of a request's header lines at least."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()

    def read_some(self, octets: int) -> None:
        """Read so many octets of a request at least, and its header lines."""
        self.read_head()
        while len(self._buffer) < octets:
            self._more()

    def read_request(self) -> Seen:
        """Read one request with a Content-Length (or none, and no body) and remember it."""
        self.read_head()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = int(dict(headers).get("content-length", "0"))
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        method, target, _ = first.split(" ")
        self._seen.append(Seen(method, target, headers, body))
        return self._seen[-1]

    def send(self, data: bytes) -> None:
        """Send octets as they are."""
        self._sock.sendall(data)

    def answer(self, body: bytes = b"", status: str = "200 OK", media_type: str = "text/plain", *more: str) -> None:
        """Send one well-formed answer; ``more`` are further header lines."""
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *more]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def send_until_closed(self, piece: bytes, most: int = 64 * 2**20) -> int:
        """Send ``piece`` over and over until the client hangs up; return how many octets it was sent."""
        sent = 0
        with contextlib.suppress(OSError):
            while sent < most:
                self.send(piece)
                sent += len(piece)
        return sent

    def wait_closed(self) -> None:
        """Read until the client hangs up."""
        with contextlib.suppress(OSError):
            while self._sock.recv(65536):
                pass

    def close(self) -> None:
        """End the connection with FIN."""
        self._sock.close()

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def _more(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise EOFError("the client hung up in the middle of a request")
        self._buffer += data


Script = Callable[[Connection], None]


class ScriptedServer:
    """Accepts one connection after the other and plays one script on each; ``seen`` holds all requests read."""

    def __init__(self, scripts: tuple[Script, ...], tls: ssl.SSLContext | None = None, host: str = LOOPBACK) -> None:
        self._scripts = scripts
        self._tls = tls
        self._listener = socket.create_server((host, 0))
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self.seen: list[Seen] = []
        self.connections = 0
        self.failure: BaseException | None = None
        self._closing = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop listening; raise what went wrong in a script, if anything did."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in accept
        self.thread.join(PATIENCE)
        self._listener.close()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            for script in self._scripts:
                self._play(script)
        except BaseException as error:
            self.failure = None if self._closing and isinstance(error, OSError) else error

    def _play(self, script: Script) -> None:
        sock, _ = self._listener.accept()
        self.connections += 1
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or what closes it may overtake a short answer
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            if self._tls is not None:
                try:
                    sock = stack.enter_context(self._tls.wrap_socket(sock, server_side=True))
                except OSError:  # a client that does not like our certificate
                    return
            script(Connection(sock, self.seen))


@contextlib.contextmanager
def scripted(*scripts: Script, tls: ssl.SSLContext | None = None) -> Iterator[ScriptedServer]:
    """Serve one connection for each script, in order, while the context lasts."""
    server = ScriptedServer(scripts, tls)
    try:
        yield server
    finally:
        server.close()
