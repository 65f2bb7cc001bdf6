"""A light HTTP client: sends requests that were made beforehand over kept connections, as fast as they are answered.

python -m bench.http_load PORT CONNECTIONS FILE

FILE holds whole HTTP requests, each behind its length in 4 octets. Where the server closes a connection behind its
answer, another one takes its place. Runs in a process of its own, so that its work is not the server's; prints one line
of JSON: ``seconds``, ``octets`` received, and how often each ``status`` came.
"""

import json
import mmap
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

LENGTH = struct.Struct(">I")
LOOPBACK = "127.0.0.1"
RECEIVE = 262_144  # octets at once
END_OF_CHUNKS = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: ``status`` counts the answers."""

    seconds: float
    octets: int
    status: dict[str, int]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return sum(self.status.values()) / self.seconds

    def expect(self, status: str) -> "Load":
        """Return this, having made sure that every answer was this one."""
        if set(self.status) != {status}:
            raise SystemExit(f"expected {status}, but got {self.status}")
        return self


def write_requests(path: Path, requests: Iterable[bytes]) -> None:
    """Write what ``load`` sends."""
    with path.open("wb") as file:
        for request in requests:
            file.write(LENGTH.pack(len(request)))
            file.write(request)


def load(port: int, requests: Path, connections: int = 16) -> Load:
    """Send all requests of a file, once each, from a process of its own."""
    argv = [sys.executable, "-m", "bench.http_load", str(port), str(connections), str(requests)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=300)
    return Load(**json.loads(done.stdout))


class _Connection:
    """One kept connection: one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.connect()
        self._head = b""
        self._left: int | None = None  # octets of the body; None: until the last chunk
        self._tail = b""

    def connect(self) -> None:
        self.socket = socket.create_connection((LOOPBACK, self._port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def closing(self) -> bool:
        """Whether the server said that it closes the connection behind this answer."""
        return b"\r\nconnection: close" in self._head.lower()

    def send(self, request: memoryview) -> None:
        self._head = b""
        self.socket.sendall(request)

    def receive(self) -> tuple[int, str | None]:
        """Take what is there; return how many octets, and the status once the answer is complete."""
        data = self.socket.recv(RECEIVE)
        if not data:
            raise SystemExit(f"the server closed a connection; it last said {self._head[:100]!r}")
        if b"\r\n\r\n" not in self._head:
            head, found, body = (self._head + data).partition(b"\r\n\r\n")
            self._head = head + found
            if not found:
                return len(data), None
            _, length, value = head.lower().partition(b"content-length: ")
            self._left = int(value.partition(b"\r\n")[0]) if length else None
            self._tail = b"\r\n"
        else:
            body = data
        if self._left is not None:
            self._left -= len(body)
            complete = self._left == 0
        else:
            self._tail = (self._tail + body)[-len(END_OF_CHUNKS) :]
            complete = self._tail == END_OF_CHUNKS
        return len(data), self._head[9:12].decode() if complete else None


def _read(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    position = 0
    while position < len(view):
        start = position + LENGTH.size
        position = start + LENGTH.unpack(view[position:start])[0]
        yield view[start:position]


def _run(port: int, connections: int, requests: Iterator[memoryview]) -> Load:
    status: Counter[str] = Counter()
    octets = 0
    with selectors.DefaultSelector() as selector:
        pool = [_Connection(port) for _ in range(connections)]
        started = time.perf_counter()
        for connection in pool:
            if (request := next(requests, None)) is not None:
                connection.send(request)
                selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _ in selector.select():
                connection = key.data
                received, answer = connection.receive()
                octets += received
                if answer is None:
                    continue
                status[answer] += 1
                if connection.closing:
                    selector.unregister(connection.socket)
                    connection.socket.close()
                    connection.connect()
                    selector.register(connection.socket, selectors.EVENT_READ, connection)
                if (request := next(requests, None)) is not None:
                    connection.send(request)
                else:
                    selector.unregister(connection.socket)
        seconds = time.perf_counter() - started
    for connection in pool:
        connection.socket.close()
    return Load(seconds, octets, dict(status))


def main() -> None:
    """Send, and say what came of it."""
    port, connections, path = sys.argv[1:]
    done = _run(int(port), int(connections), _read(Path(path)))
    print(json.dumps({"seconds": done.seconds, "octets": done.octets, "status": done.status}))


if __name__ == "__main__":
    main()
