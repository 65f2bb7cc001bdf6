"""A store that mail for bob waits at, a name server, and pullers as processes, for the benchmarks of the puller."""

import contextlib
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench import store_house
from bench.ports import free_port
from bench.store_house import House, Server, serving_at
from services.post_manager.http.upload import Held
from services.post_manager.storage import posts
from services.post_manager.storage.posts import NewPost, Sender, Terms
from stubmail.address import Address
from stubmail.envelope import Envelope, fill_up, tag
from stubmail.keyring import Keyring
from stubmail.openpgp import Certificate, Identity, split

ALICE, BOB = Address("alice", "alpha.example"), Address("bob", "beta.example")
BATCH = 1_000  # posts stored at a time
WATCH_SECONDS = 0.05  # between two looks at a program's memory
TTL = 86_400  # seconds; the names are asked for once
_TERMS = Terms(10**9, 10**13, 10**9, 10**6)
_HEAD = "$ORIGIN example.\n$TTL {ttl}\n@ SOA ns hostmaster 1 3600 600 604800 60\n@ NS ns\nns A 127.0.0.1\n"
_DOMAIN = """\
_stub._udp.{name} SRV 10 5 {udp} post.{name}
_pks._tcp.{name} SRV 10 5 11371 post.{name}
_post._tcp.{name} TXT "10 5 {http} post.{name}.example. post_manager"
post.{name} A 127.0.0.1
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A program that has ended: seconds it took, processor seconds, octets of memory at the peak, what it printed."""

    seconds: float
    cpu: float
    peak: int
    output: str


@dataclass
class PullerHouse:
    """alpha.example's store and DNS, running; ``bob`` is whom posts are for."""

    root: Path
    store: House
    server: Server
    dns: tuple[str, int]
    alice: Identity
    bob: Certificate
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    @property
    def keys(self) -> Path:
        """bob's GnuPG home: he knows alice."""
        return self.root / "b"

    def fill(self, messages: Iterator[bytes]) -> None:
        """Have these messages (with CRLF) wait for bob, signed and encrypted by alice."""
        batch: list[tuple[bytes, bytes, bytes]] = []
        for message in messages:
            batch.append((post_id := secrets.token_bytes(16), *self._seal(post_id, message)))
            if len(batch) == BATCH:
                self._store(batch)
                batch = []
        self._store(batch)

    def config(self) -> Path:
        """Write the configuration of a puller with nothing fetched yet; it is in a directory of its own."""
        place = self.root / f"puller{next(self._numbers)}"
        place.mkdir()
        (place / "users.toml").write_text(
            f'[users.bob]\naddress = "{BOB}"\ngnupghome = "{self.keys}"\nmaildrop = "mbox:{place}/mbox"\n'
        )
        path = place / "stub.conf"
        path.write_text(
            f'[dns]\nresolver = "{self.dns[0]}:{self.dns[1]}"\nallow_private = true\n'
            f'[http2mbox]\nadmin_listen = ""\nusers = "{place}/users.toml"\nstate = "{place}/state"\n'
        )
        return path

    def pull(self, config: Path) -> Run:
        """Run the puller once, as an installed program is: its modules compiled, nothing set up for debugging."""
        environment = os.environ | {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(self.root / "compiled"),
        }
        argv = [sys.executable, "-m", "services.http2mbox", "--config", str(config)]
        subprocess.run([*argv, "--check"], env=environment, check=True, capture_output=True)
        return run([*argv, "--once"], environment)

    def _seal(self, post_id: bytes, message: bytes) -> tuple[bytes, bytes]:
        tags = fill_up([tag(post_id, self.bob.fingerprint, BOB)], secrets.token_bytes)
        heads, body = split(self.alice.seal(Envelope(ALICE, datetime.now(UTC), tags).wrap(message), [self.bob]))
        return b"".join(heads), body

    def _store(self, batch: list[tuple[bytes, bytes, bytes]]) -> None:
        new = [
            NewPost(post_id, self.bob.fingerprint, str(BOB), head, index)
            for index, (post_id, head, _) in enumerate(batch)
        ]
        bodies = [Held(sha256(body).digest(), body) for _, _, body in batch]
        with self.store.open() as database:
            posts.store(database, Sender(self.alice.fingerprint, str(ALICE)), new, bodies, _TERMS, int(time.time()))


@contextlib.contextmanager
def puller_house(domains: int = 0) -> Iterator[PullerHouse]:
    """Run it; d0.example, d1.example and so on, ``domains`` of them, have the same store under names of their own."""
    http, udp, dns = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="sm", dir="/tmp") as directory, contextlib.ExitStack() as stack:
        root = Path(directory)  # short: an agent's socket is below it
        stack.callback(_end_agents, root / "a", root / "b")
        Keyring(root / "a").generate(ALICE, "Alice")
        Keyring(root / "b").generate(BOB, "Bob")
        certificate = Keyring(root / "a").export(ALICE)
        Keyring(root / "b").add(certificate)
        alice = stack.enter_context(Keyring(root / "a").identity(ALICE))
        listen: dict[str, Any] = {"listen": f"127.0.0.1:{http}", "udp_listen": f"127.0.0.1:{udp}", "udp": True}
        house = stack.enter_context(store_house.house([alice.fingerprint], **listen))
        names = ["alpha", *(f"d{number}" for number in range(domains))]
        zone = _HEAD.format(ttl=TTL) + "".join(_DOMAIN.format(name=name, http=http, udp=udp) for name in names)
        (root / "zone").write_text(zone)
        argv = ["stubmail.testing.nameserver", "--zone", str(root / "zone"), "--listen", f"127.0.0.1:{dns}"]
        stack.enter_context(serving_at(argv, root / "dns.log", dns))
        argv = ["services.post_manager", "--config", str(house.root / "stub.conf")]
        server = stack.enter_context(serving_at(argv, root / "store.log", http))
        yield PullerHouse(root, house, server, ("127.0.0.1", dns), alice, Keyring(root / "b").export(BOB))


def run(argv: list[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a program to its end. Raises SystemExit when it fails."""
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env=environment)
        peak = _watch(process)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"{argv[0]} ended with {process.returncode}:\n{text[-2000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, peak, text)


def _watch(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process's end and return its memory at the peak; what the kernel tells afterwards would count ours."""
    peak, server = 0, Server(process, 0)
    descriptor = os.pidfd_open(process.pid)
    try:
        while not select.select([descriptor], [], [], WATCH_SECONDS)[0]:
            peak = max(peak, server.memory())
    finally:
        os.close(descriptor)
    return peak


def _end_agents(*homes: Path) -> None:
    for home in homes:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, timeout=10)
