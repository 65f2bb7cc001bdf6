"""The gateway as its own processes, for the benchmarks that send mail through it: alone, or with two whole domains."""

import contextlib
import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.ports import free_port
from bench.store_house import Server, serving_at
from stubmail.queue import Queue
from stubmail.queue.depth import DepthGauge
from stubmail.testing.network import Network

SENDER_DOMAIN, RECIPIENT_DOMAIN = "alpha.example", "beta.example"
SENDER = f"alice@{SENDER_DOMAIN}"
QUIET_SECONDS = 86_400.0  # between rounds of the pullers, which are not what is measured
SENT = 'stubmail_gateway_recipients_total{outcome="sent",route="stub"}'


@contextlib.contextmanager
def receiver() -> Iterator[tuple[Server, Path]]:
    """Run a receiver alone; yields it and its spool. What it accepts stays there."""
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory:
        root, port = Path(directory), free_port()
        (root / "users.toml").write_text(f'[users.alice]\naddress = "{SENDER}"\n')
        (root / "stub.conf").write_text(
            f'[domain]\nname = "{SENDER_DOMAIN}"\n[smtp2stub]\nusers = "{root}/users.toml"\nspool = "{root}/spool"\n'
            f'listen = "127.0.0.1:{port}"\nadmin_listen = ""\n'
        )
        argv = ["services.smtp2stub", "--config", str(root / "stub.conf"), "--role", "receiver"]
        with serving_at(argv, root / "log", port) as server:
            yield server, root / "spool"


class Domains:
    """Two domains on loopback, alice at one and people at the other; mail for them stays in alice's store."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.sender = network.domains[SENDER_DOMAIN]
        self.port = self.sender.ports["smtp"]

    def metric(self, name: str) -> int:
        """A metric of the gateway."""
        return _metric(self.sender.ports["gateway_admin"], name)

    def store_metric(self, name: str) -> int:
        """A metric of the store behind it."""
        return _metric(self.sender.ports["admin"], name)

    def wait_for(self, sent: int, seconds: float) -> None:
        """Return when so many recipients have been served since the start: their posts are durable in the store."""
        deadline = time.monotonic() + seconds
        while self.metric(SENT) < sent:
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.metric(SENT)} of {sent} posts were stored\n{self.network.log_tail()}")
            time.sleep(0.02)

    def processes(self) -> dict[str, int]:
        """The gateway's processes: receiver and courier, and their pids."""
        parent = self.network.pids[f"{SENDER_DOMAIN}/smtp2stub"]
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        return {role: pid for role in ("receiver", "courier") for pid, line in lines.items() if role.encode() in line}


@contextlib.contextmanager
def domains(people: Sequence[str]) -> Iterator[Domains]:
    """Run two domains whose store takes as much as a benchmark has to offer."""
    raised = {"QUOTA_POSTS": 10**9, "QUOTA_BYTES": 10**13, "RATE_NETWORK": 0, "RATE_CLIENT": 0}
    names = {f"STUBMAIL_POST_MANAGER_{name}": str(value) for name, value in raised.items()}
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory:
        os.environ.update(names)
        network = Network(Path(directory), {SENDER_DOMAIN: ["alice"], RECIPIENT_DOMAIN: people}, interval=QUIET_SECONDS)
        try:
            network.start()
            yield Domains(network)
        finally:
            network.stop()
            for name in names:
                del os.environ[name]


def spooled(spool: Path) -> int:
    """How many messages a receiver has put into its spool and nobody has taken out."""
    return DepthGauge(Queue(spool)).measure().incoming


def memory(pid: int, field: str = "VmRSS") -> int:
    """Octets of a process's memory: those that it has now, or with ``VmHWM`` the most that it had."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _metric(port: int, name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0
