"""Dovecot as Debian packages it, an instance of its own on loopback with one user, for tests of POP3 clients."""

import grp
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stubmail.testing.ports import free_ports
from tests.support.gpg import need
from tests.support.pop3d import CERT, KEY
from tests.support.ports import LOOPBACK
from tests.support.waiting import wait_until

USER, PASSWORD = "bob", "open sesame"

_CONFIG_2_3 = """\
base_dir = {run}
state_dir = {run}
log_path = {log}
ssl = yes
ssl_cert = <{cert}
ssl_key = <{key}
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
mail_location = maildir:{maildir}
passdb {{
  driver = passwd-file
  args = {passwd}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={directory}
}}
"""
_CONFIG_2_4 = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
base_dir = {run}
state_dir = {run}
log_path = {log}
ssl = yes
ssl_server_cert_file = {cert}
ssl_server_key_file = {key}
auth_allow_cleartext = yes
auth_mechanisms = {mechanisms}
mail_driver = maildir
mail_path = {maildir}
passdb passwd-file {{
  passwd_file_path = {passwd}
}}
userdb static {{
  fields {{
    uid = {uid}
    gid = {gid}
    home = {directory}
  }}
}}
"""
_COMMON = """\
protocols = pop3
listen = 127.0.0.1
{users}first_valid_uid = 1
service anvil {{
  chroot =
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = {tls_port}
    ssl = yes
  }}
}}
"""


@dataclass(frozen=True)
class Dovecot:
    """A running Dovecot: bob's mail is ``maildir``."""

    port: int
    tls_port: int
    maildir: Path
    log: Path

    def put(self, *messages: bytes) -> None:
        """Deliver messages; call it before anybody logs in."""
        for place in ("new", "cur", "tmp"):
            (self.maildir / place).mkdir(parents=True, exist_ok=True)
            os.chown(self.maildir / place, *_owner())
        os.chown(self.maildir, *_owner())
        for number, message in enumerate(messages, 1):
            path = self.maildir / "new" / f"17000000{number:02}.M{number}.test"
            path.write_bytes(message)
            os.chown(path, *_owner())

    def left(self) -> list[bytes]:
        """Return what is in the maildrop."""
        files = [path for place in ("new", "cur") for path in (self.maildir / place).iterdir()]
        return [path.read_bytes() for path in sorted(files, key=lambda path: path.name)]


@contextmanager
def dovecot(mechanisms: str = "plain") -> Iterator[Dovecot]:
    """Start an instance as whatever user the tests run as; skip the test where Dovecot is not installed."""
    need("dovecot", "dovecot-pop3d")
    directory = Path(tempfile.mkdtemp(prefix="sd", dir="/tmp"))  # short: sockets are in it
    directory.chmod(0o755)
    try:
        config = _configure(directory, mechanisms)
        server = Dovecot(*config, directory / "mail", directory / "log")
        process = subprocess.Popen(["dovecot", "-F", "-c", directory / "dovecot.conf"])
        try:
            wait_until(lambda: process.poll() is not None or _listens(server.port), what="Dovecot's start")
            assert process.poll() is None, server.log.read_text()
            yield server
        finally:
            process.terminate()
            process.wait(20)
    finally:
        shutil.rmtree(directory)


def _configure(directory: Path, mechanisms: str) -> tuple[int, int]:
    """Write the configuration in the form of the Dovecot that is installed, and return both ports."""
    version = subprocess.run(["dovecot", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.match(r"(\d+)\.(\d+)", version)
    assert match is not None, version
    newer = (int(match[1]), int(match[2])) >= (2, 4)
    (directory / "passwd").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    port, tls_port = free_ports(2)
    text = (_CONFIG_2_4 if newer else _CONFIG_2_3) + _COMMON
    (directory / "dovecot.conf").write_text(
        text.format(
            run=directory / "run",
            log=directory / "log",
            cert=CERT,
            key=KEY,
            mechanisms=mechanisms,
            maildir=directory / "mail",
            passwd=directory / "passwd",
            uid=_owner()[0],
            gid=_owner()[1],
            users=_users(),
            directory=directory,
            port=port,
            tls_port=tls_port,
        )
    )
    return port, tls_port


def _owner() -> tuple[int, int]:
    """Whose the mail is: root's cannot be read by POP3."""
    nobody = pwd.getpwnam("nobody")
    return (nobody.pw_uid, nobody.pw_gid) if os.getuid() == 0 else (os.getuid(), os.getgid())


def _users() -> str:
    """Lines that make one user do everything; root keeps to those that the package brings, as Dovecot insists."""
    if os.getuid() == 0:
        return ""
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    return f"default_internal_user = {user}\ndefault_internal_group = {group}\ndefault_login_user = {user}\n"


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), 1).close()
    except OSError:
        return False
    return True
