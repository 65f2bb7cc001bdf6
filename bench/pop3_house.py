"""pop3d and Dovecot side by side on loopback, each with its own copy of the same mboxes, for the benchmarks of POP3.

Dovecot runs in its high-performance mode: login processes serve many clients, and workers are used again.
"""

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.pop3_load import LOOPBACK, PASSWORD
from bench.ports import free_port
from bench.store_house import Server

DOVECOT, POP3D = "Dovecot", "pop3d"
MBOX, MAILDIR = "mbox", "Maildir"
KINDS = os.environ.get("BENCH_MAILDROPS", f"{MBOX} {MAILDIR}").split()  # of those that the benchmarks go over
START_SECONDS = 30.0
MAIL_OWNER = "nobody"  # of Dovecot's mailboxes: it reads none of root's
SESSIONS = 2000  # that either takes
_TLS = Path(__file__).parents[1] / "tests" / "data" / "pop3d"
_CERT, _KEY = _TLS / "localhost.cert.pem", _TLS / "localhost.key.pem"
_FROM = b"From alice@alpha.example Thu Jan  1 00:00:00 2026\n"
_LINE = b"0123456789abcdef" * 4 + b"\n"

_LOCATION_2_3 = {MBOX: "mbox:{mail}/folders-%u:INBOX={mail}/%u", MAILDIR: "maildir:{mail}/%u"}
_LOCATION_2_4 = {
    MBOX: "mail_driver = mbox\nmail_path = {mail}/folders-%{{user}}\nmail_inbox_path = {mail}/%{{user}}",
    MAILDIR: "mail_driver = maildir\nmail_path = {mail}/%{{user}}",
}
_DOVECOT_2_3 = """\
ssl_cert = <{cert}
ssl_key = <{key}
disable_plaintext_auth = no
mail_location = {location}
mail_max_userip_connections = 0
passdb {{
  driver = passwd-file
  args = {passwd}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={mail}/home-%u
}}
"""
_DOVECOT_2_4 = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
ssl_server_cert_file = {cert}
ssl_server_key_file = {key}
auth_allow_cleartext = yes
{location}
mail_max_userip_connections = 0
passdb passwd-file {{
  passwd_file_path = {passwd}
}}
userdb static {{
  fields {{
    uid = {uid}
    gid = {gid}
    home = {mail}/home-%{{user}}
  }}
}}
"""
_DOVECOT = """\
base_dir = {root}/run
state_dir = {root}/run
log_path = {root}/log
ssl = yes
auth_mechanisms = plain
protocols = pop3
listen = 127.0.0.1
{users}first_valid_uid = 1
default_process_limit = {sessions}
default_client_limit = 8000
service anvil {{
  chroot =
}}
service pop3-login {{
  chroot =
  {count} = 0
  process_min_avail = {cores}
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = {tls_port}
    ssl = yes
  }}
}}
service pop3 {{
  {count} = 100000
  process_limit = {sessions}
}}
"""


@dataclass(frozen=True, slots=True)
class Pop3Server:
    """A running server: its ports, and where u0's mbox is, u1's and so on."""

    server: Server
    port: int
    tls_port: int
    mail: Path

    def at(self, tls: bool) -> int:
        """The port for TLS from the first octet, or for none."""
        return self.tls_port if tls else self.port

    def memory(self) -> int:
        """Octets of memory of all its processes; what several share counts once among them (PSS, proc(5))."""
        return sum(_proportional(pid) for pid in self.server.processes())


def missing() -> str:
    """Why Dovecot cannot be run here, in one sentence; an empty text when it can."""
    return "" if shutil.which("dovecot") else "dovecot not installed: apt-get install dovecot-pop3d"


def write(kind: str, path: Path, messages: int, size: int) -> None:
    """Write a maildrop of either kind; see write_mbox."""
    (write_maildir if kind == MAILDIR else write_mbox)(path, messages, size)


def write_mbox(path: Path, messages: int, size: int) -> None:
    """Write an mbox of messages that take ``size`` octets each, from From line to blank line."""
    with path.open("wb", buffering=2**20) as file:
        for number in range(messages):
            file.write(_FROM + _message(number, size) + b"\n")


def write_maildir(path: Path, messages: int, size: int) -> None:
    """Write a Maildir of the messages that ``write_mbox`` writes; some program has seen them all."""
    for name in ("cur", "new", "tmp"):
        (path / name).mkdir(parents=True)
    for number in range(messages):
        (path / "cur" / f"{1_767_225_600 + number}.M{number}P1.alpha:2,S").write_bytes(_message(number, size))


def _message(number: int, size: int) -> bytes:
    head = (
        f"From: alice@alpha.example\nTo: bob@beta.example\nSubject: number {number}\n"
        f"Message-ID: <{number}.bench@alpha.example>\nDate: Thu, 1 Jan 2026 00:00:00 +0000\n\n"
    ).encode()
    lines, rest = divmod(size - len(_FROM) - len(head) - 2, len(_LINE))
    return head + _LINE * lines + _LINE[: max(rest, 0)].rstrip(b"\n") + b"\n"


@contextlib.contextmanager
def servers(template: Path, people: int) -> Iterator[dict[str, Pop3Server]]:
    """Run both for u0, u1 and so on, who get copies of ``template``, an mbox or a Maildir; indexes are to be made yet.

    Files of Maildirs, which nobody writes to, are copied as links.
    """
    kind = MAILDIR if template.is_dir() else MBOX
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        root.chmod(0o755)
        names = [f"u{number}" for number in range(people)]
        for place in ("pop3d", "dovecot"):
            (root / place / "mail").mkdir(parents=True)
            for name in names:
                if kind == MAILDIR:
                    shutil.copytree(template, root / place / "mail" / name, copy_function=os.link)
                else:
                    shutil.copyfile(template, root / place / "mail" / name)
        yield {
            DOVECOT: stack.enter_context(_dovecot(root / "dovecot", names, kind)),
            POP3D: stack.enter_context(_pop3d(root / "pop3d", names, kind)),
        }


@contextlib.contextmanager
def _pop3d(root: Path, names: Sequence[str], kind: str) -> Iterator[Pop3Server]:
    port, tls_port = free_port(), free_port()
    tables = (
        f'[users.{name}]\npassword = "{{PLAIN}}{PASSWORD}"\nmaildrop = "{kind.lower()}:mail/{name}"\n' for name in names
    )
    (root / "users.toml").write_text("".join(tables))
    (root / "stub.conf").write_text(
        f'[pop3d]\nlisten = "{LOOPBACK}:{port}"\ntls_listen = "{LOOPBACK}:{tls_port}"\nadmin_listen = ""\n'
        f'users = "{root}/users.toml"\ntls_cert = "{_CERT}"\ntls_key = "{_KEY}"\nsessions = {SESSIONS}\n'
    )
    argv = [sys.executable, "-m", "services.pop3d", "--config", str(root / "stub.conf")]
    with _running(argv, root / "log", port) as server:
        yield Pop3Server(server, port, tls_port, root / "mail")


@contextlib.contextmanager
def _dovecot(root: Path, names: Sequence[str], kind: str) -> Iterator[Pop3Server]:
    port, tls_port = free_port(), free_port()
    owner = pwd.getpwnam(MAIL_OWNER) if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    for path in (root / "mail", *(root / "mail").rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    (root / "passwd").write_text("".join(f"{name}:{{PLAIN}}{PASSWORD}\n" for name in names))
    newer = _version() >= (2, 4)
    text = (_DOVECOT_2_4 if newer else _DOVECOT_2_3) + _DOVECOT  # the first lines say for which version it is
    values = {
        "root": root,
        "mail": root / "mail",
        "location": (_LOCATION_2_4 if newer else _LOCATION_2_3)[kind].format(mail=root / "mail"),
        "passwd": root / "passwd",
        "cert": _CERT,
        "key": _KEY,
        "uid": owner.pw_uid,
        "gid": owner.pw_gid,
        "users": _internal_users(),
        "count": "restart_request_count" if newer else "service_count",
        "cores": os.cpu_count() or 1,
        "sessions": SESSIONS,
        "port": port,
        "tls_port": tls_port,
    }
    (root / "dovecot.conf").write_text(text.format(**values))
    with _running(["dovecot", "-F", "-c", str(root / "dovecot.conf")], root / "log", port) as server:
        yield Pop3Server(server, port, tls_port, root / "mail")


def _version() -> tuple[int, int]:
    text = subprocess.run(["dovecot", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _internal_users() -> str:
    """Lines that have one user do everything, where it is not root who starts it."""
    if os.getuid() == 0:
        return ""
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    return f"default_internal_user = {user}\ndefault_internal_group = {group}\ndefault_login_user = {user}\n"


@contextlib.contextmanager
def _running(argv: Sequence[str], log: Path, port: int) -> Iterator[Server]:
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{argv[0]} does not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield Server(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), 1):
            return True
    except OSError:
        return False


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
