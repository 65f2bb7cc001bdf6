"""A store as its own processes, and signed requests to it, for the benchmarks that ask it something."""

import contextlib
import itertools
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from services.post_manager import service
from services.post_manager.storage import schema, sessions
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from stubmail.request import Part, Request, mac

HOST = "post.alpha.example"
ADDRESS = "127.0.0.1"
WORKERS, THREADS = 2, 16
_LISTENING = re.compile(r"Z (?:post_manager|null) info - listening address=127\.0\.0\.1:(\d+)")
_BOUNDARY = "5d4c6b7a8f9e0d1c2b3a495867768594"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A server's processes and the port it answers at."""

    process: "subprocess.Popen[bytes]"
    port: int

    def processes(self) -> list[int]:
        """Its process and all below it."""
        return list(_descendants(self.process.pid))

    def cpu_seconds(self) -> float:
        """Processor time that it has used up so far, in user and system mode."""
        return sum(_cpu(pid) for pid in self.processes())

    def memory(self) -> int:
        """Octets of memory that its processes have to themselves and have ever had: the sum of their peaks."""
        return sum(_peak(pid) for pid in self.processes())


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _descendants(int(child))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _peak(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def serving(argv: Sequence[str], log: Path) -> Iterator[Server]:
    """Run a server, and wait until its log says where it listens."""
    with serving_at(argv, log, 0) as server:
        _wait(server, log, lambda: bool(_LISTENING.search(log.read_text())))
        found = _LISTENING.search(log.read_text())
        assert found is not None
        server.port = int(found[1])
        yield server


@contextlib.contextmanager
def serving_at(argv: Sequence[str], log: Path, port: int) -> Iterator[Server]:
    """Run a server, and wait until it answers on a port that it was given; 0 for not to wait."""
    with log.open("ab") as output:
        environment = service.ENVIRONMENT | os.environ
        process = subprocess.Popen([sys.executable, "-m", *argv], stdout=output, stderr=output, env=environment)
    server = Server(process, port)
    try:
        if port:
            _wait(server, log, lambda: _answers(port))
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait(server: Server, log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"it does not start:\n{log.read_text()}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((ADDRESS, port), timeout=1):
            return True
    except OSError:
        return False


@dataclass
class House:
    """A spool directory with its configuration, and people with sessions at its store."""

    root: Path
    url: str

    @property
    def database(self) -> Path:
        """The database's file, for SQLite."""
        return self.root / "spool" / "store.db"

    @contextlib.contextmanager
    def open(self) -> Iterator[Database]:
        """The database itself, for what takes too long through HTTP."""
        database = Database(self.url)
        try:
            yield database
        finally:
            database.close()

    def session(self, fingerprint: str) -> sessions.Session:
        """Open a session as the store does."""
        now = int(time.time())
        session, cookie = sessions.new_session(fingerprint, address_of(fingerprint), now, secrets.token_bytes(16))
        with self.open() as database:
            sessions.save(database, session, cookie, now)
        return session

    @contextlib.contextmanager
    def serve(self) -> Iterator[Server]:
        """Run the store's HTTP process."""
        log = self.root / f"log.{secrets.token_hex(4)}"
        with serving(["services.post_manager.http.server", "--config", str(self.root / "stub.conf")], log) as server:
            yield server


@contextlib.contextmanager
def house(accounts: Sequence[str] = (), url: str = "", **settings: Any) -> Iterator[House]:
    """Make a store's directory, with accounts for these fingerprints; it is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory:
        root = Path(directory)
        tables = (
            f'[accounts.a{number}]\naddress = "{address_of(fingerprint)}"\nfingerprint = "{fingerprint}"\n'
            for number, fingerprint in enumerate(accounts)
        )
        (root / "accounts.toml").write_text("".join(tables))
        (root / "spool").mkdir(mode=0o700)
        (root / "spool" / "incoming").mkdir(mode=0o700)
        values = {
            "listen": f"{ADDRESS}:0",
            "admin_listen": "",
            "udp": False,
            "host": HOST,
            "spool": str(root / "spool"),
            "accounts": str(root / "accounts.toml"),
            "workers": WORKERS,
            "threads": THREADS,
            "rate_network": 0,
            "rate_client": 0,
            "quota_posts": 10**9,
            "quota_bytes": 10**13,
        }
        if url:
            values["database"] = url
        lines = [f"{key} = {json.dumps(value)}" for key, value in (values | settings).items()]
        text = "\n".join(['[domain]\nname = "alpha.example"\n[post_manager]', *lines, ""])
        (root / "stub.conf").write_text(text)
        made = House(root, url or sqlite_url(root / "spool" / "store.db"))
        with made.open() as database:
            schema.prepare(database)
        yield made


def fingerprints(number: int) -> list[str]:
    """Return as many fingerprints, the same ones each time."""
    return [sha256(f"person {index}".encode()).hexdigest()[:40].upper() for index in range(number)]


def address_of(fingerprint: str) -> str:
    """The mail address of somebody who is nothing but a fingerprint."""
    return f"u{fingerprint[:12].lower()}@alpha.example"


def request(
    session: sessions.Session, op: str, members: Mapping[str, Any], parts: Sequence[bytes] = (), **spoil: Any
) -> bytes:
    """Return an HTTP request with the session's MAC; ``spoil`` changes fields of the Request."""
    fields: dict[str, Any] = {
        "op": op,
        "host": HOST,
        "time": int(time.time()),
        "nonce": secrets.token_hex(16),
        "parts": tuple(Part(sha256(part).digest(), len(part)) for part in parts),
        "session": session.id.hex(),
        "members": members,
    }
    data = Request(**(fields | spoil)).to_wire()
    return http_post([("request", data), ("mac", mac(session.secret, data)), *(("part", part) for part in parts)])


def http_post(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """Return an HTTP request with a form of these parts, as stubmail.store_client sends it."""
    body = b"".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in parts
    )
    body += f"--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST /post_manager HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: stubmail\r\nAccept-Encoding: identity\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def store_requests(senders: Sequence[sessions.Session], to: Sequence[str], number: int, size: int) -> Iterator[bytes]:
    """Yield requests that each store one new post of ``size`` octets, senders and recipients in turn."""
    people = zip(itertools.cycle(senders), itertools.cycle(to), range(number), strict=False)
    for sender, recipient, _ in people:
        post = {"id": secrets.token_hex(16), "to": recipient, "address": address_of(recipient), "head": 0, "body": 1}
        parts = [secrets.token_bytes(94), secrets.token_bytes(size - 94)]
        yield request(sender, "store", {"posts": [post]}, parts)
