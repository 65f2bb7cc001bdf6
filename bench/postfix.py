"""A Postfix of the benchmarks' own: its configuration and queue in a temporary directory, on loopback ports.

It has to be started as root, as every Postfix has.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.ports import free_port

SMTP_SOURCE = "smtp-source"
START_SECONDS = 30.0

# As Debian's, without chroot; what a mail that is held, or discarded, goes through.
_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def missing() -> str:
    """Why Postfix cannot be run here, in one sentence; an empty text when it can."""
    absent = [name for name in ("postfix", SMTP_SOURCE) if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install postfix"
    return "" if os.geteuid() == 0 else "Postfix has to be started as root"


@contextlib.contextmanager
def postfix(settings: Sequence[str], services: str = "") -> Iterator[tuple[int, Path]]:
    """Run a Postfix with these further lines of main.cf and master.cf; yields its SMTP port and its queue."""
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        port = free_port()
        for name in ("queue", "data", "config"):
            (root / name).mkdir(mode=0o755)
        shutil.chown(root / "data", "postfix")
        lines = [
            "compatibility_level = 3.6",
            f"queue_directory = {root}/queue",
            f"data_directory = {root}/data",
            f"maillog_file = {root}/log",
            f"maillog_file_prefixes = {root}",
            "myhostname = bench.example",
            "mydestination =",
            "inet_interfaces = 127.0.0.1",
            "inet_protocols = ipv4",
            "alias_maps =",
            "alias_database =",
            "smtpd_client_connection_rate_limit = 0",
            "smtpd_client_connection_count_limit = 0",
            *settings,
        ]
        (root / "config" / "main.cf").write_text("\n".join([*lines, ""]))
        (root / "config" / "master.cf").write_text(_MASTER.format(port=port) + services)
        command = ["postfix", "-c", str(root / "config")]
        subprocess.run([*command, "start"], check=True, capture_output=True, timeout=60)
        try:
            _wait_for(port, root / "log")
            yield port, root / "queue"
        finally:
            subprocess.run([*command, "stop"], check=False, capture_output=True, timeout=60)


def submit(port: int, number: int, size: int, connections: int, *, to: str, keep: bool = False) -> float:
    """Have smtp-source send so many messages; return how many seconds that took. ``keep``: connections are used on."""
    command = [SMTP_SOURCE, "-m", str(number), "-s", str(connections), "-l", str(size), *(["-d"] if keep else [])]
    addresses = ["-f", "alice@alpha.example", "-t", to]
    started = time.monotonic()
    subprocess.run([*command, *addresses, f"inet:127.0.0.1:{port}"], check=True, timeout=300)
    return time.monotonic() - started


def _wait_for(port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"Postfix does not start:\n{log.read_text() if log.exists() else ''}")
        time.sleep(0.05)
