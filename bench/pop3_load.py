"""A light POP3 client in a process of its own, so that it takes as little as can be from the server it measures.

python -m bench.pop3_load logins PORT TLS FIRST CLIENTS SECONDS    as often as it goes; FIRST: number of the first user
python -m bench.pop3_load drain PORT TLS USER WINDOW               all messages, WINDOW commands at a time
python -m bench.pop3_load hold PORT TLS FIRST SESSIONS             open, until standard input ends
python -m bench.pop3_load flood PORT TLS USER COMMAND              as much of it as goes, until standard input ends

TLS is 0 or 1. COMMAND takes no argument, or it is RETR: then it is for all messages in turn. Users are called u0, u1
and so on. What came of it is printed as JSON, one line.
"""

import asyncio
import json
import resource
import select
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

LOOPBACK = "127.0.0.1"
PASSWORD = "open sesame"
END = b"\r\n.\r\n"  # of a message; inside of one its dot would be doubled, RFC 1939 §3
RECEIVE = 2**18
AT_ONCE = 32  # sessions that are being opened, of those to be held
TIMEOUT = 120.0  # seconds for one answer


@dataclass(frozen=True, slots=True)
class Logins:
    """Sessions of greeting, USER, PASS, STAT and QUIT, until the server hung up; times in seconds."""

    rate: float  # sessions a second
    median: float
    p99: float


@dataclass(frozen=True, slots=True)
class Drain:
    """Every message retrieved once, after login and STAT."""

    seconds: float
    messages: int
    octets: int


def logins(port: int, tls: bool, first: int, clients: int, seconds: float) -> Logins:
    """Have some clients log in for so long, but once at least, each to a mailbox of its own."""
    return Logins(**_run("logins", port, tls, first, clients, seconds))


def drain(port: int, tls: bool, user: int, window: int) -> Drain:
    """Have one client retrieve everything."""
    done = _run("drain", port, tls, user, window)
    return Drain(done["seconds"], int(done["messages"]), int(done["octets"]))


def start_holding(port: int, tls: bool, first: int, sessions: int) -> "subprocess.Popen[bytes]":
    """Open that many sessions, each of a user of its own; they are left when the process's standard input ends."""
    process = subprocess.Popen(_argv("hold", port, tls, first, sessions), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise SystemExit(f"{sessions} sessions could not be opened")
    return process


def start_flood(port: int, user: int, command: str) -> "subprocess.Popen[bytes]":
    """Have one client in the clear send a command, and take the replies, until the process's standard input ends."""
    argv = _argv("flood", port, False, user, command)
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise SystemExit("the server takes no flood")
    return process


def _argv(mode: str, port: int, tls: bool, *values: float | str) -> list[str]:
    return [sys.executable, "-m", "bench.pop3_load", mode, str(port), str(int(tls)), *map(str, values)]


def _run(mode: str, port: int, tls: bool, *numbers: float) -> dict[str, float]:
    done = subprocess.run(_argv(mode, port, tls, *numbers), check=True, stdout=subprocess.PIPE, timeout=300)
    return cast(dict[str, float], json.loads(done.stdout))


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Session(asyncio.Protocol):
    """Says one line after each answer of one line; ``answered`` after the last, ``closed`` when the server hung up."""

    _transport: asyncio.Transport

    def __init__(self, user: int, last: tuple[bytes, ...]) -> None:
        self._lines = iter((b"USER u%d" % user, b"PASS " + PASSWORD.encode(), *last))
        self._answer = b""
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._answer.endswith(b"\r\n"):
            return
        if not self._answer.startswith(b"+OK"):
            sys.exit(f"the server said {self._answer!r}")
        self._answer = b""
        line = next(self._lines, None)
        if line is not None:
            self._transport.write(line + b"\r\n")
        elif not self.answered.done():
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            sys.exit(f"the server hung up early: {exc}")
        self.closed.set_result(None)


async def _connect(port: int, tls: ssl.SSLContext | None, user: int, *last: bytes) -> _Session:
    loop = asyncio.get_running_loop()
    name = "localhost" if tls else None
    _, session = await loop.create_connection(
        lambda: _Session(user, last), LOOPBACK, port, ssl=tls, server_hostname=name
    )
    return session


async def _log_in(port: int, tls: ssl.SSLContext | None, user: int, deadline: float, times: list[float]) -> None:
    while True:
        started = time.perf_counter()
        session = await _connect(port, tls, user, b"STAT", b"QUIT")
        await session.closed
        ended = time.perf_counter()
        times.append(ended - started)
        if ended >= deadline:
            return


async def _logins(port: int, tls: ssl.SSLContext | None, first: int, clients: int, seconds: float) -> Logins:
    times: list[float] = []
    started = time.perf_counter()
    users = range(first, first + clients)
    await asyncio.gather(*(_log_in(port, tls, user, started + seconds, times) for user in users))
    took = time.perf_counter() - started
    times.sort()
    return Logins(len(times) / took, times[len(times) // 2], times[len(times) * 99 // 100])


async def _hold(port: int, tls: ssl.SSLContext | None, first: int, sessions: int) -> None:
    some = asyncio.Semaphore(AT_ONCE)

    async def open_one(user: int) -> _Session:
        async with some:
            session = await _connect(port, tls, user, b"STAT")
            await session.answered
            return session

    held = await asyncio.gather(*map(open_one, range(first, first + sessions)))
    print(json.dumps(len(held)), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _ask(connection: socket.socket, line: bytes) -> bytes:
    if line:
        connection.sendall(line + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        answer += connection.recv(RECEIVE)
    if not answer.startswith(b"+OK"):
        sys.exit(f"the server said {answer!r}")
    return answer


def _log_in_plainly(connection: socket.socket, user: int) -> int:
    """Log in and return how many messages there are."""
    _ask(connection, b"")
    _ask(connection, b"USER u%d" % user)
    _ask(connection, b"PASS " + PASSWORD.encode())
    return int(_ask(connection, b"STAT").split()[1])


def _flood(port: int, user: int, command: bytes) -> None:
    with socket.create_connection((LOOPBACK, port), TIMEOUT) as connection:
        messages = _log_in_plainly(connection, user)
        lines = b"".join(b"%s %d\r\n" % (command, number + 1) for number in range(messages))
        flood = lines if command == b"RETR" else (command + b"\r\n") * 10_000
        print(messages, flush=True)
        connection.setblocking(False)
        at = taken = 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            readable, writable, _ = select.select([connection], [connection], [], 1.0)
            if writable:
                at = (at + connection.send(flood[at : at + RECEIVE])) % len(flood)
            if readable:
                got = len(connection.recv(RECEIVE))
                taken += got
                if not got:
                    sys.exit(f"the server hung up after {taken} octets")


def _drain(port: int, tls: ssl.SSLContext | None, user: int, window: int) -> Drain:
    with socket.create_connection((LOOPBACK, port), TIMEOUT) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain
        messages = _log_in_plainly(connection, user)
        started = time.perf_counter()
        octets = _retrieve(connection, messages, window)
        took = time.perf_counter() - started
        _ask(connection, b"QUIT")
        connection.close()
    return Drain(took, messages, octets)


def _retrieve(connection: socket.socket, messages: int, window: int) -> int:
    sent = received = octets = 0
    tail = b""
    while received < messages:
        if sent < messages and sent - received <= window // 2:
            until = min(messages, received + window)
            connection.sendall(b"".join(b"RETR %d\r\n" % number for number in range(sent + 1, until + 1)))
            sent = until
        data = connection.recv(RECEIVE)
        if not data:
            sys.exit(f"the server hung up after {received} messages")
        octets += len(data)
        if window == 1:
            received += (tail + data[-5:]).endswith(END)
        else:
            received += data.count(END) + (tail + data[:4]).count(END)
        tail = (tail + data[-4:])[-4:]
    return octets


def main() -> None:
    """Do what the arguments say."""
    mode, port, tls = sys.argv[1], int(sys.argv[2]), _tls_context() if sys.argv[3] == "1" else None
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if mode == "logins":
        first, clients, seconds = int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
        print(json.dumps(asdict(uvloop.run(_logins(port, tls, first, clients, seconds)))))
    elif mode == "drain":
        print(json.dumps(asdict(_drain(port, tls, int(sys.argv[4]), int(sys.argv[5])))))
    elif mode == "flood":
        _flood(port, int(sys.argv[4]), sys.argv[5].encode())
    else:
        uvloop.run(_hold(port, tls, int(sys.argv[4]), int(sys.argv[5])))


if __name__ == "__main__":
    main()
