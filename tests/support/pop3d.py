"""pop3d as a process, the way users start it, and a client on a raw socket that hides nothing."""

import contextlib
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import argon2

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
TLS = ROOT / "tests" / "data" / "pop3d"
CERT, KEY = TLS / "localhost.cert.pem", TLS / "localhost.key.pem"
FROM = b"From a@b.example Thu Jan  1 00:00:00 2026\n"
# "open sesame", hashed far too weakly for use, but quickly
ARGON2ID = "{ARGON2ID}" + argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("open sesame")
SECONDS = 60.0  # that a client waits for anything


def mbox(*contents: bytes) -> bytes:
    """Stored messages as an mbox file."""
    return b"".join(FROM + content + b"\n" for content in contents)


class Pop3d:
    """A running pop3d. ``settings`` are lines of [pop3d]; both ports are chosen by the system."""

    def __init__(self, directory: Path, users: str, settings: str = "", admin: str = "") -> None:
        self.wrapper: list[str] = []  # a command that starts another
        self.users = directory / "users.toml"
        self.users.write_text(users)
        self.config = directory / "stub.conf"
        self.config.write_text(
            f'[pop3d]\nlisten = "127.0.0.1:0"\ntls_listen = "127.0.0.1:0"\nusers = "{self.users}"\n'
            f'admin_listen = "{admin}"\n'
            f'tls_cert = "{directory / "cert.pem"}"\ntls_key = "{directory / "key.pem"}"\n{settings}\n'
        )
        (directory / "cert.pem").write_bytes(CERT.read_bytes())
        (directory / "key.pem").write_bytes(KEY.read_bytes())
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        command = [*self.wrapper, sys.executable, "-m", "services.pop3d", "--config", str(self.config)]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.port, self.tls_port = self._port("tls=False"), self._port("tls=True")
        except AssertionError as error:
            self.process.kill()
            self.wait()
            raise AssertionError("\n".join(self.lines)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Return the exit status; all lines of the log are there then."""
        status = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def logged(self, *parts: str) -> str:
        """Return the first line of the log that holds all of ``parts``, as soon as it is there."""
        return wait_until(lambda: next((line for line in self.lines if all(part in line for part in parts)), ""))

    def peak_memory(self) -> int:
        """Return the most octets of memory that the process ever had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def _port(self, kind: str) -> int:
        return int(self.logged(" listening address=", kind).partition("127.0.0.1:")[2].split()[0])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))


class Client:
    """A client that sends and receives octets; it reads the greeting when it connects."""

    def __init__(self, port: int, *, tls: bool = False, source: str = "127.0.0.1", receive_buffer: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(SECONDS)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._buffer = b""
        try:
            self.socket.bind((source, 0))
            self.socket.connect(("127.0.0.1", port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self.start_tls()
            self.greeting = self.line()
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def start_tls(self) -> None:
        """Begin TLS now."""
        context = ssl.create_default_context(cafile=CERT)
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """Return the next line without its end; empty when the server has hung up."""
        while b"\r\n" not in self._buffer:
            data = self.socket.recv(65536)
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def ask(self, line: bytes) -> bytes:
        """Send a command and return the status line."""
        self.send(line + b"\r\n")
        return self.line()

    def ask_lines(self, line: bytes) -> list[bytes]:
        """Send a command and return the lines of its multi-line answer, the status line first."""
        lines = [self.ask(line)]
        if lines[0].startswith(b"+OK"):
            while (more := self.line()) != b".":
                lines.append(more)
        return lines

    def log_in(self, name: bytes = b"bob", password: bytes = b"open sesame") -> bytes:
        self.ask(b"USER " + name)
        return self.ask(b"PASS " + password)

    def rest(self) -> bytes:
        """Return everything until the server hangs up, however it does that."""
        data = self._buffer
        self._buffer = b""
        with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
            while more := self.socket.recv(1 << 20):
                data += more
        return data


@contextlib.contextmanager
def serving(
    directory: Path, settings: str = "", *contents: bytes, password: str = "{PLAIN}open sesame", admin: str = ""
) -> Iterator[tuple[Pop3d, Path]]:
    """Run pop3d for bob, whose mbox holds ``contents``; ``password`` as in the users file, ``admin`` is HOST:PORT."""
    path = directory / "bob"
    if contents:
        path.write_bytes(mbox(*contents))
    users = f'[users.bob]\naddress = "bob@beta.example"\npassword = "{password}"\nmaildrop = "mbox:{path}"\n'
    with Pop3d(directory, users, settings, admin) as server:
        yield server, path


__all__ = ["ARGON2ID", "CERT", "FROM", "KEY", "TLS", "Client", "Pop3d", "mbox", "serving"]
