"""A post manager as its own processes, on ports of its choice, and what its log says."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stubmail.datagram import Unknown, Waiting, answer_from_wire, check_to_wire
from tests.support.metrics import numbers_of
from tests.support.ports import LOOPBACK
from tests.support.store import BOUNDARY, HOST, URL, Person, Talker
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
START = 60.0  # seconds that it may take on the busiest machine
_HTTP = re.compile(r"post_manager info - listening address=127\.0\.0\.1:(\d+) host=")
_ADMIN = re.compile(r"post_manager\.admin info - listening address=127\.0\.0\.1:(\d+)")
_UDP = re.compile(r"post_manager\.udp info - listening address=127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Response:
    """An HTTP answer, with the names that Flask's test client gives its parts."""

    status_code: int
    headers: http.client.HTTPMessage
    data: bytes

    @property
    def content_type(self) -> str | None:
        return self.headers["Content-Type"]

    def get_json(self) -> Any:
        return json.loads(self.data)


class StoreProcess:
    """The command ``post_manager`` with the configuration in ``root``; ``post`` is what a Talker needs."""

    def __init__(self, root: Path, accounts: Iterable[Person], **settings: Any) -> None:
        self.root = root
        self.clock = time.time
        self.spool = root / "spool"
        self.log = root / "log"
        self.config = root / "stub.conf"
        self.http = self.udp = self.admin = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.allow(accounts)
        values = {
            "listen": f"{LOOPBACK}:0",
            "admin_listen": f"{LOOPBACK}:0",
            "udp_listen": f"{LOOPBACK}:0",
            "host": HOST,
            "spool": str(self.spool),
            "accounts": str(root / "accounts.toml"),
            "workers": 1,
            "rate_network": 0,
            "rate_client": 0,
            **settings,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        self.config.write_text("\n".join(['[domain]\nname = "alpha.example"\n[post_manager]', *lines]) + "\n")

    def allow(self, people: Iterable[Person]) -> None:
        """Write the accounts file."""
        tables = [
            f'[accounts.n{number}]\naddress = "{person.address}"\nfingerprint = "{person.fingerprint}"\n'
            for number, person in enumerate(people)
        ]
        (self.root / "accounts.toml").write_text("\n".join(tables))

    def run(self, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run the command to its end."""
        return subprocess.run(
            self._command(*arguments), cwd=REPOSITORY, env=os.environ | (environ or {}), capture_output=True, timeout=60
        )

    def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until its addresses are listened at, and until it is ready if that is going to be."""
        already = len(self.text())
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command(), cwd=REPOSITORY, stdout=log, stderr=log)
        wait_until(lambda: self._listens(already), START, "its start")
        self.http = int(_HTTP.findall(self.text())[-1])
        self.admin = int(_ADMIN.findall(self.text())[-1])
        self.udp = int(_UDP.findall(self.text())[-1])
        wait_until(self.ready if ready else self.answers, START, "readiness")

    def _listens(self, already: int) -> bool:
        assert self._process is not None and self._process.poll() is None, self.text()
        return all(line.search(self.text(), already) for line in (_HTTP, _ADMIN, _UDP))

    def answers(self) -> bool:
        """Whether it answers HTTP, whatever it says."""
        try:
            return self.request("GET", URL).status_code > 0 and self.ask_admin("/readyz").status_code > 0
        except (OSError, http.client.HTTPException):
            return False

    def ready(self) -> bool:
        """Whether /readyz says so."""
        try:
            return self.ask_admin("/readyz").status_code == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        return self.end(signal.SIGTERM)

    def end(self, number: int) -> int:
        """Send a signal and wait for the end of the command and all its processes."""
        assert self._process is not None
        children = descendants(self._process.pid)
        self._process.send_signal(number)
        status = self._process.wait(60)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 30, "the end of all processes")
        self._process = None
        return status

    def close(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self.end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        """The command's process id."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the command."""
        os.kill(self.pid, number)

    def text(self) -> str:
        """The log."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until the log says something."""
        wait_until(lambda: self.text().count(text) >= times, 30, f"{text!r} in the log")

    def ask_admin(self, path: str) -> Response:
        """GET a page of the admin listener."""
        connection = http.client.HTTPConnection(LOOPBACK, self.admin, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())

    def metrics(self) -> dict[str, float]:
        """What /metrics says."""
        return numbers_of(self.ask_admin("/metrics").data.decode())

    def request(self, method: str, url: str, body: bytes | None = None, **headers: str) -> Response:
        """One HTTP request on a connection of its own."""
        connection = http.client.HTTPConnection(LOOPBACK, self.http, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, url, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())

    def post(self, body: bytes) -> Response:
        """POST a body to the store's URL."""
        return self.request("POST", URL, body, Content_Type=f"multipart/form-data; boundary={BOUNDARY}")

    def talker(self, person: Person) -> Talker:
        """Return a client with an open session."""
        talker = Talker(self, person)  # type: ignore[arg-type]  # what it needs of a store
        assert talker.open().status_code == 200
        return talker

    def check(self, talker: Talker) -> Waiting | Unknown:
        """Ask over UDP."""
        nonce, key = os.urandom(16), bytes.fromhex(talker.session["cookie_key"])
        answer = self.datagram(check_to_wire(bytes.fromhex(talker.session["cookie"]), nonce, key))
        assert answer is not None
        return answer_from_wire(answer, nonce, key)

    def datagram(self, data: bytes, seconds: float = 10.0) -> bytes | None:
        """Send a datagram and return what comes back, None when nothing does in time."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(seconds)
            client.connect((LOOPBACK, self.udp))
            client.send(data)
            try:
                return client.recv(2048)
            except TimeoutError:
                return None

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "services.post_manager", "--config", str(self.config), *arguments]


def descendants(pid: int) -> list[int]:
    """All processes below one, itself included."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(found for child in text.split() for found in descendants(int(child)))]


@contextlib.contextmanager
def store_process(root: Path, accounts: Iterable[Person] = (), **settings: Any) -> Iterator[StoreProcess]:
    """A post manager that runs; it is ended, if the test did not do that."""
    store = StoreProcess(root, accounts, **settings)
    try:
        store.start()
        yield store
    finally:
        store.close()
