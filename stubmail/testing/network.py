"""Stub mail domains on loopback: every service its own process, a real name server, links that can be disturbed.

The demo, the pytest fixture and the benchmarks all run this. Nothing of it needs root or Docker.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stubmail.provision import Site, provision
from stubmail.spool import write_durably
from stubmail.supervisor import Child, Supervisor
from stubmail.testing.domain import LOOPBACK, PORTS, DomainNetwork, stub_conf, zone_text
from stubmail.testing.ports import free_ports
from stubmail.testing.wire import Link, Place

PASSWORD = "stubmail-demo"  # noqa: S105 (the demo's, shown to everybody)
LEGACY = "legacy.example"
READY_SECONDS = 60.0


class NetworkError(Exception):
    """The network did not come up; the message says which process failed, and its log's end."""


class Network:
    """Any number of stub domains below ``example.``, and legacy.example, which has none of it.

    ``domains`` maps each domain to its users. ``interval`` is the pullers', in seconds. ``links=True`` puts a Link in
    front of each store, notifier and key server. Use it as a context manager, or ``start`` and ``stop`` it.
    """

    def __init__(
        self, root: Path, domains: Mapping[str, Sequence[str]], *, interval: float = 0.5, links: bool = False
    ) -> None:
        self.root = root
        self.interval = interval
        ports = iter(free_ports(len(domains) * len(PORTS) + 2))
        self.domains = {
            name: DomainNetwork(Site(name, root / name), tuple(users), {port: next(ports) for port in PORTS})
            for name, users in domains.items()
        }
        self.dns: Place = (LOOPBACK, next(ports))
        self.legacy: Place = (LOOPBACK, next(ports))
        self.legacy_mbox = root / LEGACY / "mbox"
        self.pids: dict[str, int] = {}
        self.on_start: Callable[[str, int], None] = lambda name, pid: None
        self._links = links
        self._closers: list[Callable[[], None]] = []
        self._loop = asyncio.new_event_loop()
        self._supervisor: Supervisor | None = None
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def __enter__(self) -> "Network":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def provision(self) -> None:
        """Make keys and accounts, of all domains at once; what is there from before is kept."""
        for domain in self.domains.values():
            domain.site.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.legacy_mbox.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.root / "logs").mkdir(exist_ok=True)
        with ThreadPoolExecutor() as pool:
            made = {d.site.domain: pool.submit(provision, d.site, d.users, PASSWORD) for d in self.domains.values()}
        for name, future in made.items():
            self.domains[name].certificates = future.result()

    def start(self) -> None:
        """Provision, start all processes, and return when every port answers. Raises NetworkError."""
        self.provision()
        self._thread.start()
        if self._links:
            asyncio.run_coroutine_threadsafe(self._open_links(), self._loop).result()
        for domain in self.domains.values():
            write_durably(domain.config, stub_conf(domain, self.dns, self.legacy).encode())
        write_durably(self.root / "zone", zone_text(self.domains).encode())
        self._supervisor = Supervisor(self._children(), drain_seconds=10)
        self._supervisor.on_start = self._started
        self._ended = asyncio.run_coroutine_threadsafe(self._supervisor.run(), self._loop)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when every service answers on its port. Raises NetworkError when one does not within a minute."""
        deadline = time.monotonic() + READY_SECONDS
        waited = ("smtp", "pop3", "pop3s", "store", "hkp")
        wanted = {f"{d.site.domain}:{port}": d.ports[port] for d in self.domains.values() for port in waited}
        for name, port in {"dns": self.dns[1], LEGACY: self.legacy[1], **wanted}.items():
            while not _answers(port):
                if self._ended.done() or time.monotonic() > deadline:
                    raise NetworkError(f"{name} does not answer on port {port}\n{self.log_tail()}")
                time.sleep(0.02)

    def stop(self) -> None:
        """End all processes and wait for them; closes the links."""
        if self._supervisor is not None:
            self._loop.call_soon_threadsafe(self._supervisor.stop)
            self._ended.result()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        for domain in self.domains.values():
            for user in domain.users:
                _end_agent(domain.site.keys / user)

    def kill(self, name: str) -> int:
        """kill -9 one process, by its name in ``pids``; it is started again a second later. Returns its old pid."""
        pid = self.pids[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of each process's log."""
        tails = []
        for path in sorted((self.root / "logs").glob("*.log")):
            tails += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(tails)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._close_links())

    async def _close_links(self) -> None:
        for close in self._closers:
            close()
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await asyncio.sleep(0)  # transports close one turn of the loop later

    def _started(self, name: str, pid: int) -> None:
        self.pids[name] = pid
        self.on_start(name, pid)

    async def _open_links(self) -> None:
        for domain in self.domains.values():
            for service in ("store", "udp", "hkp"):
                link = Link((LOOPBACK, domain.ports[service]), udp=service == "udp")
                self._closers.append(await link.start())
                domain.links[service] = link

    def _children(self) -> list[Child]:
        python = [sys.executable, "-m"]
        dns = f"{self.dns[0]}:{self.dns[1]}"
        legacy = f"{self.legacy[0]}:{self.legacy[1]}"
        mbox = str(self.legacy_mbox)
        commands = {
            "dns": [*python, "stubmail.testing.nameserver", "--zone", str(self.root / "zone"), "--listen", dns],
            LEGACY: [*python, "stubmail.testing.legacy", "--listen", legacy, "--domain", LEGACY, "--mbox", mbox],
        }
        for name, domain in self.domains.items():
            for service in ("post_manager", "keyserver", "smtp2stub", "http2mbox", "pop3d"):
                options = ["--interval", str(self.interval)] if service == "http2mbox" else []
                argv = [*python, f"services.{service}", "--config", str(domain.config), *options]
                commands[f"{name}/{service}"] = argv
        logs = self.root / "logs"
        return [Child(name, argv, output=logs / f"{name.replace('/', '_')}.log") for name, argv in commands.items()]


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def _end_agent(home: Path) -> None:
    """End the gpg-agent that gpg started for this home."""
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True, timeout=60)
