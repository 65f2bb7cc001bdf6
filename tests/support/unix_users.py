"""Two users of this machine, made for a test as root and removed afterwards, and a PAM service that knows them."""

import fcntl
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gpg import need

PASSWORD = "open sesame"
SERVICE_FILE = "auth required pam_unix.so nodelay\naccount required pam_unix.so\n"


@dataclass(frozen=True)
class UnixUser:
    """One of them; their password is PASSWORD."""

    name: str
    uid: int
    gid: int
    home: Path


@dataclass(frozen=True)
class Machine:
    """Both, and the PAM service's name."""

    one: UnixUser
    two: UnixUser
    service: str


@contextmanager
def machine() -> Iterator[Machine]:
    """Make them. Skips when not root: nobody else may."""
    if os.geteuid() != 0:
        pytest.skip("makes users of the machine: run as root")
    need("useradd", "passwd")
    need("chpasswd", "passwd")
    tag = secrets.token_hex(3)
    names = [f"st{tag}a", f"st{tag}b"]
    service = Path(f"/etc/pam.d/stubmail-test-{tag}")
    try:
        passwords = "".join(f"{name}:{PASSWORD}\n" for name in names)
        with alone():
            for name in names:
                command = ["useradd", "--create-home", "--shell", "/bin/false", name]
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
            subprocess.run(["chpasswd", "--crypt-method", "SHA512"], input=passwords, text=True, check=True)
        service.write_text(SERVICE_FILE)
        yield Machine(*(_find(name) for name in names), service.name)
    finally:
        service.unlink(missing_ok=True)
        for name in names:
            with alone():
                subprocess.run(["userdel", "--remove", "--force", name], check=False, capture_output=True)
            for left in Path("/var/mail").glob(f"{name}*"):
                left.unlink()
            shutil.rmtree(f"/home/{name}", ignore_errors=True)


@contextmanager
def alone() -> Iterator[None]:
    """Keep other tests from the machine's files of users meanwhile: those programs give up when they are locked."""
    with Path(tempfile.gettempdir(), "stubmail-test-users.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _find(name: str) -> UnixUser:
    entry = pwd.getpwnam(name)
    return UnixUser(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
