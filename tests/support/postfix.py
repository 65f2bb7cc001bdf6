"""A Postfix of the test's own: other directories and ports than the machine's, nothing left running afterwards."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gpg import need
from tests.support.ports import free_port
from tests.support.waiting import wait_until

DAEMONS = "/usr/lib/postfix/sbin"  # Debian's

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
local unix - n n - - local
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
_MAIN = """\
compatibility_level = 3.6
daemon_directory = {daemons}
queue_directory = {root}/queue
data_directory = {root}/data
mail_owner = postfix
setgid_group = postdrop
maillog_file = {root}/log
maillog_file_prefixes = {root}
myhostname = mx.alpha.example
mydestination =
mynetworks = 127.0.0.0/8
inet_protocols = ipv4
alias_maps =
alias_database =
smtputf8_enable = yes
smtpd_relay_restrictions = permit_mynetworks, reject
default_transport = discard
notify_classes =
minimal_backoff_time = 1s
queue_run_delay = 1s
{settings}
"""


@dataclass
class Postfix:
    """``root`` is its directory, ``port`` where it takes mail from this machine."""

    root: Path
    port: int

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs with its configuration."""
        program, *rest = arguments
        command = [program, "-c", str(self.root / "etc"), *rest]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def log(self) -> str:
        """What it has logged."""
        path = self.root / "log"
        return path.read_text() if path.exists() else ""

    def queue(self) -> str:
        """What waits in it, as mailq shows it."""
        return self.run("postqueue", "-p").stdout


@contextmanager
def postfix(directory: Path, **settings: str) -> Iterator[Postfix]:
    """Run Postfix with its files below ``directory``, which its users must be able to reach, and these settings."""
    need("postfix", "postfix")
    if os.geteuid() != 0:
        pytest.skip("Postfix has to be started by root")
    root = Path(tempfile.mkdtemp(prefix="pf", dir=directory))
    root.chmod(0o755)
    found = Postfix(root, free_port())
    for name in ("etc", "queue", "data"):
        (root / name).mkdir()
        (root / name).chmod(0o755)
    shutil.chown(root / "data", "postfix")
    lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
    (root / "etc" / "main.cf").write_text(_MAIN.format(daemons=DAEMONS, root=root, settings=lines))
    (root / "etc" / "master.cf").write_text(_MASTER.format(port=found.port))
    started = found.run("postfix", "start")
    try:
        assert started.returncode == 0, started.stderr + found.log()
        wait_until(lambda: "daemon started" in found.log(), 20, "Postfix's start")
        yield found
    finally:
        found.run("postfix", "stop")
        with suppress(OSError):
            shutil.rmtree(root)
