"""The gateway as its users run it, as processes, by a configuration of the test's own; for integration tests."""

import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

from stubmail.address import Address
from stubmail.keyring import Keyring
from stubmail.queue import Queue
from tests.support.gateway import MESSAGE, Client
from tests.support.metrics import numbers_of
from tests.support.ports import LOOPBACK
from tests.support.store import URL
from tests.support.store_process import StoreProcess
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
ADMIN = re.compile(r"smtp2stub\.admin info - listening address=127\.0\.0\.1:(\d+)")
LISTENING = re.compile(r"smtp2stub\.receiver info - listening address=127\.0\.0\.1:(\d+)")


class Gateway:
    """A configuration, and the processes that run by it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        self.spool = Queue(root / "spool")
        self.users = root / "users.toml"
        self.settings = {
            "listen": "127.0.0.1:0",
            "admin_listen": "127.0.0.1:0",
            "users": self.users,
            "spool": self.spool.root,
        }
        self.dns: tuple[str, int] = ("127.0.0.1", 1)
        self.add_user("alice", maildrop=f"mbox:{root / 'alice.mbox'}", gnupghome=root / "g")
        self.wrapper: Sequence[str] = ()  # a command that the gateway is started by
        self.processes: list[subprocess.Popen[bytes]] = []

    def add_user(self, name: str, **more: object) -> None:
        lines = [f"[users.{name}]", f'address = "{name}@alpha.example"', 'password = "{PLAIN}secret"']
        with self.users.open("a") as file:
            file.write("\n".join([*lines, *(f'{key} = "{value}"' for key, value in more.items()), ""]))

    def command(self, *arguments: str) -> list[str]:
        lines = ['[domain]\nname = "alpha.example"', f'[dns]\nresolver = "{self.dns[0]}:{self.dns[1]}"']
        lines += ["timeout_seconds = 0.5", "[smtp2stub]"]
        for key, value in self.settings.items():
            lines.append(f"{key} = {json.dumps(value if isinstance(value, bool | int | float) else str(value))}")
        config = self.root / "stub.conf"
        config.write_text("\n".join(lines) + "\n")
        return [sys.executable, "-m", "services.smtp2stub", "--config", str(config), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=60, cwd=REPOSITORY)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen([*self.wrapper, *self.command(*arguments)], stderr=log, cwd=REPOSITORY)
        self.processes.append(process)
        return process

    def child(self, role: str) -> int:
        """The process of the gateway that was started last which has this role, by its number."""
        parent = self.processes[-1].pid
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                if role.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(pid)
        raise AssertionError(f"there is no {role}")

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def port(self) -> int:
        """Where the receiver that was started last listens."""
        return int(wait_until(lambda: LISTENING.findall(self.text()), 30)[-1])

    def page(self, path: str) -> tuple[int, str]:
        """Ask the admin listener; 0 when a process that was being asked died."""
        port = int(wait_until(lambda: ADMIN.findall(self.text()), 30)[-1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The value of a metric, as Prometheus would see it."""

        def page() -> str:
            status, text = self.page("/metrics")
            return text if status == 200 else ""

        return numbers_of(wait_until(page, what="the page"))[name]

    def submit(self, *recipients: Address, message: bytes = MESSAGE) -> str:
        with Client(("127.0.0.1", self.port())) as client:
            assert client.reply().startswith("220")
            assert client.say("EHLO test").startswith("250")
            return client.submit(message, *map(str, recipients))

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        subprocess.run(["gpgconf", "--homedir", str(self.root / "g"), "--kill", "all"], check=False)


@contextmanager
def store_for(address: Address, home: Path) -> Iterator[StoreProcess]:
    """A store that runs, and that the account with this address and GnuPG home may use."""
    person = SimpleNamespace(address=str(address), fingerprint=Keyring(home).identity(address).fingerprint)
    root = Path(tempfile.mkdtemp(prefix="sm"))
    store = StoreProcess(root, [person], host=LOOPBACK)
    try:
        store.start()
        yield store
    finally:
        store.close()
        shutil.rmtree(root, ignore_errors=True)


def store_url(store: StoreProcess) -> str:
    """What [smtp2stub] store is to be for it."""
    return f"http://{LOOPBACK}:{store.http}{URL}"


@contextmanager
def gateway_process() -> Iterator[Gateway]:
    """A gateway that is not started yet; its files go, and what runs of it ends, afterwards."""
    root = Path(tempfile.mkdtemp(prefix="sm"))
    found = Gateway(root)
    try:
        yield found
    finally:
        found.stop()
        shutil.rmtree(root, ignore_errors=True)
