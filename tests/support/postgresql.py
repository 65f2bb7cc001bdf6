"""A PostgreSQL cluster of the test run's own: Debian's package, in a temporary directory, on a loopback port."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from stubmail.supervisor import die_with_parent
from tests.support.gpg import need
from tests.support.ports import LOOPBACK, free_port
from tests.support.store_process import descendants
from tests.support.waiting import wait_until

OWNER = "stubmail"  # the role that owns the databases; no superuser
_SUPERUSER = "postgres"
_ROLE = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
_DATABASE = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
_DROP = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
_LOCALE = ("--encoding=UTF8", "--locale=C")
_CONFIG = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = '{root}'
fsync = {fsync}
full_page_writes = {fsync}
shared_buffers = 32MB
"""


class Cluster:
    """One server and its files below ``root``, a short path. ``fsync`` is for tests that measure or crash it."""

    def __init__(self, root: Path, *, fsync: bool = False) -> None:
        self.port = free_port()
        self.password = secrets.token_urlsafe(16)  # of all roles
        self.log = root / "log"
        self._root = root
        self._data = root / "data"
        self._identity = _unprivileged()
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._initialize("on" if fsync else "off")

    def url(self, name: str, role: str = OWNER, password: str | None = None) -> str:
        """Return the URL of a database."""
        return f"postgresql://{role}:{password or self.password}@{LOOPBACK}:{self.port}/{name}"

    def create(self, template: str = "template1") -> str:
        """Make a database as a copy of another one, which nobody is connected to; return its name."""
        self._made += 1
        name = f"test{self._made}"
        self.execute(_DATABASE.format(sql.Identifier(name), sql.Identifier(OWNER), sql.Identifier(template)))
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self.execute(_DROP.format(sql.Identifier(name)))

    def execute(self, statement: sql.Composable) -> list[tuple[Any, ...]]:
        """Have the superuser execute a statement, outside of any transaction; return its rows."""
        connect = psycopg.connect(self.url(_SUPERUSER, _SUPERUSER), autocommit=True)
        with contextlib.closing(connect) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server and wait until it takes connections, crash recovery included."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", self._data],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
                **self._identity,
            )
        wait_until(self._ready, 60, f"the server, see {self.log}")

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop it: SIGINT ends sessions and writes everything out, SIGQUIT does neither ("immediate")."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None

    def kill(self) -> None:
        """SIGKILL for every process of the server at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # it would start others for those that die
        everybody = descendants(self._process.pid)
        for pid in reversed(everybody):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(60)
        wait_until(lambda: not any(_runs(pid) for pid in everybody), 60, "the end of all server processes")
        self._process = None

    def close(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self.stop(signal.SIGQUIT)

    def _initialize(self, fsync: str) -> None:
        password = self._root / "password"
        password.write_text(self.password)
        if self._identity:
            for path in (self._root, password):
                os.chown(path, self._identity["user"], self._identity["group"])
        options = ["--no-sync", "--no-instructions", "--auth=scram-sha-256", *_LOCALE]
        command = [_program("initdb"), "-D", self._data, "-U", _SUPERUSER, "--pwfile", password, *options]
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL, **self._identity)
        config = _CONFIG.format(host=LOOPBACK, port=self.port, root=self._root, fsync=fsync)
        (self._data / "postgresql.conf").write_text(config)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            lines = (self._data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(self._process.pid) and lines[7:8] != [] and lines[7].strip() == "ready"


@contextlib.contextmanager
def running_cluster(*, fsync: bool = False) -> Iterator[Cluster]:
    """A cluster that runs, with the role OWNER in it; it is removed afterwards."""
    _program("postgres")
    root = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path is short
    try:
        cluster = Cluster(root, fsync=fsync)
        try:
            cluster.start()
            cluster.execute(_ROLE.format(sql.Identifier(OWNER), sql.Literal(cluster.password)))
            yield cluster
        finally:
            cluster.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _program(name: str) -> str:
    """Return a program of the newest PostgreSQL here; Debian does not put the server's on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    program = str(found[-1]) if found else name
    need(program, "postgresql")
    return program


def _unprivileged() -> dict[str, Any]:
    """Whom the server runs as: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise LookupError("there is neither a user postgres nor nobody")


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
