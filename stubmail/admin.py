"""The listener for whoever runs a service: /livez, /readyz and /metrics, over HTTP, on an address of their own.

It is served by one thread beside the service's work, so that it answers while all of that is busy; any number of
processes may serve one socket, bound before they were forked. What a client may use is bounded: connections, time,
octets. A page that takes long, because the database hangs, holds up no other.
"""

import asyncio
import contextlib
import json
import logging
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stubmail.errors import one_line
from stubmail.log import event

MAX_HEADER = 8_192  # octets of a request
MAX_CONNECTIONS = 64  # of which the one that has been silent longest makes room for another
MAX_REST = 1_048_576  # octets that are read of a request that is too large, so that the client gets to see the answer
REQUEST_SECONDS = 5.0  # for the request to come, and again for the answer to be taken
PAGE_SECONDS = 4.0  # for a page to be made
STOP_SECONDS = 1.0  # for connections that are there when it ends
SETTLE_SECONDS = 0.02  # until one that was just let in counts among them
JSON = "application/json"

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

_log = logging.getLogger("admin")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer for one page."""

    status: int
    body: bytes
    media_type: str = JSON


Page = Callable[[], Answer]
Probe = Callable[[], str]  # one sentence about what is wrong; "" when nothing is


def json_answer(status: int, data: Mapping[str, object]) -> Answer:
    """Return an answer in JSON."""
    return Answer(status, json.dumps(data).encode() + b"\n")


class Readiness:
    """The page /readyz: 200 when every probe is content, else 503; the body names each probe, and what is wrong.

    A change is logged once, not every time that somebody asks.
    """

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self._probes = dict(probes)
        self._wrong: dict[str, str] = {}

    def __call__(self) -> Answer:
        """Ask all probes."""
        checks = {name: one_line(probe()) for name, probe in self._probes.items()}
        wrong = {name: text for name, text in checks.items() if text}
        if wrong.keys() != self._wrong.keys():
            level = logging.WARNING if wrong else logging.INFO
            event(_log, "unready" if wrong else "ready", level=level, **wrong)
        self._wrong = wrong
        data = {name: text or "ok" for name, text in checks.items()}
        return json_answer(503 if wrong else 200, {"status": "not ready" if wrong else "ready", "checks": data})


class Admin:
    """Serves pages by their path, in a thread of its own; ``/livez`` is always there, and says that it is."""

    def __init__(self, listener: socket.socket, pages: Mapping[str, Page]) -> None:
        """Take a listening socket, which stays the caller's, and what to call for each path."""
        self._listener = listener
        self._pages = dict(pages)
        self._running: dict[str, asyncio.Future[Answer]] = {}
        self._connections: set[asyncio.StreamWriter] = set()
        self._silent: dict[asyncio.StreamWriter, None] = {}  # those of which nothing is asked yet, the oldest first
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more, answer who is there, and end."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(REQUEST_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        listener = self._listener.dup()
        listener.setblocking(False)
        server = await asyncio.start_server(self._connected, sock=listener, limit=MAX_HEADER)
        await self._stopped.wait()
        asyncio.get_running_loop().remove_reader(listener)
        await asyncio.sleep(SETTLE_SECONDS)  # a server that is closed drops what it has let in and not yet begun with
        server.close()
        with contextlib.suppress(TimeoutError):  # who has asked just now gets an answer
            async with asyncio.timeout(STOP_SECONDS):
                await self._idle.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            self._end(next(iter(self._silent), writer))
        self._connections.add(writer)
        self._silent[writer] = None
        self._idle.clear()
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            _reset_at_close(writer)
        finally:
            self._end(writer)
            if not self._connections:
                self._idle.set()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        too_large = False
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                header = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            too_large = True
            text = f"the header of a request may have {MAX_HEADER} octets"
            answer, body = json_answer(431, {"error": text}), True
        else:
            self._silent.pop(writer, None)
            answer, body = await self._answer(header)
        writer.write(_to_wire(answer, body))
        async with asyncio.timeout(REQUEST_SECONDS):
            await writer.drain()
            if too_large:
                await _read_rest(reader, writer)
            writer.close()
            await writer.wait_closed()

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._connections.discard(writer)
        self._silent.pop(writer, None)
        writer.transport.abort()

    async def _answer(self, header: bytes) -> tuple[Answer, bool]:
        """Return the answer to a request, and whether its body is wanted."""
        words = header.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return json_answer(400, {"error": "not an HTTP request"}), True
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return json_answer(405, {"error": "only GET is understood here"}), True
        return await self._page(target.partition("?")[0]), method == "GET"

    async def _page(self, path: str) -> Answer:
        if path == "/livez":
            return json_answer(200, {"status": "alive"})
        if path not in self._pages:
            return json_answer(404, {"error": "not found", "pages": ["/livez", *sorted(self._pages)]})
        if path not in self._running:  # else whoever asked first is waiting for the same
            self._running[path] = self._loop.create_future()
            threading.Thread(target=self._make, args=(path,), name=f"admin {path}", daemon=True).start()
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                return await asyncio.shield(self._running[path])
        except TimeoutError:
            return json_answer(503, {"status": "not ready", "error": f"no answer within {PAGE_SECONDS:.0f} seconds"})

    def _make(self, path: str) -> None:
        """In a thread: make a page, and hand it to all who wait for it."""
        answer = json_answer(500, {"error": "the page cannot be made, the log says why"})
        try:
            answer = self._pages[path]()
        finally:
            with contextlib.suppress(RuntimeError):  # stopped meanwhile
                self._loop.call_soon_threadsafe(self._made, path, answer)

    def _made(self, path: str, answer: Answer) -> None:
        self._running.pop(path).set_result(answer)


async def _read_rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what the client goes on to send: closed at once, he would lose the answer (RFC 9112 §9.6)."""
    writer.write_eof()
    left = MAX_REST
    while left > 0 and (data := await reader.read(left)):
        left -= len(data)


def _reset_at_close(writer: asyncio.StreamWriter) -> None:
    """Have the kernel forget what a client does not take, and not keep it for minutes (SO_LINGER, socket(7))."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _to_wire(answer: Answer, body: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}",
        f"Content-Type: {answer.media_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if answer.status == 405:
        lines.append("Allow: GET, HEAD")
    header = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return header + answer.body if body else header
