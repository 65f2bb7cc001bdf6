"""lighttpd and Apache, each with the lines that docs/cgi has for it, on a port of its own and not as root."""

import contextlib
import functools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.post_manager.udp import daemon
from tests.support.ports import LOOPBACK, free_port
from tests.support.store import BOUNDARY, Person
from tests.support.store_process import REPOSITORY, Response, StoreProcess, descendants
from tests.support.waiting import wait_until

_LISTENING = re.compile(r"listening address=127\.0\.0\.1:(\d+)")
URL = "/cgi-bin/stubmail/post_manager"
MODULES = Path("/usr/lib/apache2/modules")
PROGRAM = Path(sys.executable).with_name("post_manager.cgi")

_LIGHTTPD = """
server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{root}/error.log"
server.upload-dirs = ( "{root}" )
include "{root}/stubmail.conf"
"""

_APACHE = """
ServerRoot "{root}"
ServerName localhost
DefaultRuntimeDir "{root}"
PidFile "{root}/pid"
ErrorLog "{root}/breakage.log"
Listen 127.0.0.1:{port}
LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule alias_module {modules}/mod_alias.so
LoadModule env_module {modules}/mod_env.so
LoadModule reqtimeout_module {modules}/mod_reqtimeout.so
LoadModule {cgi}_module {modules}/mod_{cgi}.so
{more}
Include "{root}/stubmail.conf"
"""


@dataclass(frozen=True)
class Identity:
    """Who runs a web server: what stands before its command, options for subprocess, and whose its directory is."""

    prefix: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    owner: str | None = None


@functools.cache
def identity() -> Identity:
    """This user, but for root, whom Apache does not serve: nobody, or where nobody may not run our Python, a name
    space in which we are not called root. The test is skipped where none of them can run the program.
    """
    if os.geteuid() != 0:
        found = [Identity()]
    else:
        nobody = Identity((), {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}, "nobody")
        found = [nobody, Identity(("unshare", "--user", "--map-user=1000", "--map-group=1000"))]
    for each in found:
        command = [*each.prefix, sys.executable, "-c", "import services.post_manager, stubmail"]
        with contextlib.suppress(OSError):
            if subprocess.run(command, cwd="/", capture_output=True, timeout=60, **each.options).returncode == 0:
                return each
    pytest.skip(f"no user but root can run {PROGRAM}")


@dataclass(frozen=True)
class Kind:
    """A web server: its program, Debian's package, the lines for admins, and ours around them."""

    program: str
    package: str
    sample: str
    frame: str
    options: tuple[str, ...]
    fill: dict[str, str] = field(default_factory=dict)

    def find(self) -> str:
        """The program's path; the test is skipped where there is none."""
        path = shutil.which(self.program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if path is None:
            text = f"{self.program} is missing: apt-get install {self.package}"
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(text)
        return str(path)


_EVENT = {"mpm": "event", "cgi": "cgid", "more": "ScriptSock {root}/cgid.sock"}
_PREFORK = {"mpm": "prefork", "cgi": "cgi", "more": ""}
_APACHE_OPTIONS = ("-d", "{root}", "-f", "{root}/web.conf", "-DFOREGROUND")
KINDS = {
    "lighttpd": Kind("lighttpd", "lighttpd", "lighttpd.conf", _LIGHTTPD, ("-D", "-f", "{root}/web.conf")),
    "apache": Kind("apache2", "apache2-bin", "apache2.conf", _APACHE, _APACHE_OPTIONS, _EVENT),
    "apache-prefork": Kind("apache2", "apache2-bin", "apache2.conf", _APACHE, _APACHE_OPTIONS, _PREFORK),
}


class WebStore(StoreProcess):
    """A store that is a CGI program of a real web server; its log is the web server's error log."""

    def __init__(self, kind: Kind, root: Path, accounts: Iterable[Person], **settings: Any) -> None:
        super().__init__(root, accounts, **settings)
        self.kind = kind
        self.log = root / "breakage.log"

    def start(self) -> None:
        """Start the web server, and wait until it listens."""
        program = self.kind.find()
        sample = (REPOSITORY / "docs" / "cgi" / self.kind.sample).read_text()
        assert sample.count("/opt/stubmail/bin") >= 1
        actual = {"/opt/stubmail/bin": PROGRAM.parent, "/etc/stubmail/stub.conf": self.config}
        for placeholder, path in (actual | {"/var/log/lighttpd/breakage.log": self.log}).items():
            sample = sample.replace(placeholder, str(path))
        (self.root / "stubmail.conf").write_text(sample)
        for _ in range(3):
            self.http = free_port()
            fill = {"root": self.root, "port": self.http, "modules": MODULES}
            fill |= {name: value.format(root=self.root) for name, value in self.kind.fill.items()}
            (self.root / "web.conf").write_text(self.kind.frame.format(**fill))
            options = [option.format(**fill) for option in self.kind.options]
            command = [*identity().prefix, program, *options]
            # Apache sends its own SIGTERM to all of its process group.
            self._process = subprocess.Popen(command, cwd="/", start_new_session=True, **identity().options)
            wait_until(lambda: self._listens() or self._process.poll() is not None, 30, "the web server")  # type: ignore[union-attr]
            if self._process.poll() is None:
                return
        raise AssertionError(self.text())

    def close(self) -> None:
        """End the web server, and then the process for UDP, which outlives it."""
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGTERM)
        daemon.stop(self.spool)
        wait_until(lambda: not daemon.runs(self.spool), 30, "the end of the process for UDP")

    def post(self, body: bytes) -> Response:
        """POST a body to the store's URL."""
        return self.request("POST", URL, body, Content_Type=f"multipart/form-data; boundary={BOUNDARY}")

    def workers(self) -> list[int]:
        """The web server's processes."""
        return descendants(self.pid)

    def daemons(self) -> list[int]:
        """The processes for UDP of this store."""
        names = {b"services.post_manager.udp.daemon_process", str(self.config).encode()}
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if names <= set(_command_line(pid).split(b"\0"))]

    def calls(self) -> list[int]:
        """The calls of the CGI program that are being answered."""
        return [pid for pid in self.workers() if b"post_manager.cgi" in _command_line(pid)]

    def udp_log(self) -> str:
        """What the process for UDP says."""
        path = self.spool / daemon.LOG
        return path.read_text() if path.exists() else ""

    def learn_udp(self) -> None:
        """Wait for the process that serves UDP, and find out where."""
        match = wait_until(lambda: _LISTENING.search(self.udp_log()), 30, "the process for UDP")
        self.udp = int(match[1])

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.http), timeout=5):
            return True
        return False


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def web_store(kind: Kind, accounts: Iterable[Person] = (), **settings: Any) -> Iterator[WebStore]:
    """A store behind a web server that runs, in a directory of the web server's user."""
    owner = identity().owner
    root = Path(tempfile.mkdtemp(prefix="sm", dir="/tmp"))
    try:
        store = WebStore(kind, root, accounts, **settings)
        if owner is not None:
            root.chmod(0o755)
            shutil.chown(root, owner)
        try:
            store.start()
            yield store
        finally:
            store.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)
