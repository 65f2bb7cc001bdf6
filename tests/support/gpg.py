"""GnuPG homes for tests, under short paths so that the agent's socket fits, with nothing left running afterwards."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

TIMEOUT = 60.0


def need(program: str, package: str) -> None:
    """Skip the test when a program is missing, with the line that installs it; with CI=true fail."""
    if shutil.which(program):
        return
    text = f"{program} is missing: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


class GpgHome:
    """One GnuPG home; every call is the real gpg."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def version(self) -> tuple[int, int]:
        """The first two numbers of gpg's version."""
        first = subprocess.run(["gpg", "--version"], capture_output=True, text=True, timeout=TIMEOUT).stdout.split(
            "\n"
        )[0]
        major, minor = first.split()[-1].split(".")[:2]
        return int(major), int(minor)

    def run(self, *arguments: str, data: bytes = b"", ok: Sequence[int] = (0,)) -> subprocess.CompletedProcess[bytes]:
        """Run gpg without questions; an exit status that is not in ``ok`` fails the test."""
        options = ("--batch", "--yes", "--no-tty", "--pinentry-mode=loopback", "--passphrase=")
        command = ["gpg", "--homedir", str(self.path), *options, *arguments]
        done = subprocess.run(command, input=data, capture_output=True, timeout=TIMEOUT)
        assert done.returncode in ok, done.stderr.decode(errors="replace")
        return done

    def generate(self, user_id: str, algorithm: str = "ed25519", expire: str = "never") -> str:
        """Make a key with an encryption subkey and return its fingerprint."""
        self.run("--quick-gen-key", user_id, algorithm, "default", expire)
        fingerprint = self.fingerprints(user_id)[0]
        self.run("--quick-add-key", fingerprint, "cv25519" if algorithm == "ed25519" else algorithm, "encr", expire)
        return fingerprint

    def fingerprints(self, what: str = "") -> list[str]:
        """Return the fingerprints of all keys, or of those that ``what`` means."""
        lines = self.run("--with-colons", "--list-keys", *([what] if what else [])).stdout.decode().splitlines()
        return [lines[at + 1].split(":")[9] for at, line in enumerate(lines) if line.startswith("pub:")]

    def export(self, what: str, *options: str) -> bytes:
        """Return a certificate, binary."""
        return self.run(*options, "--export", what).stdout

    def revoke(self, fingerprint: str) -> None:
        """Revoke a key with the certificate that gpg made along with it."""
        text = (self.path / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text()
        self.run("--import", data=text.replace(":-----BEGIN", "-----BEGIN").encode())


def expired_and_renewed(home: GpgHome, user_id: str) -> tuple[bytes, bytes]:
    """Make a key that expired five days ago, and return its certificate, then and with an expiry in two years."""
    ago = {
        days: f"--faked-system-time={time.strftime('%Y%m%dT%H%M%S', time.gmtime(time.time() - days * 86_400))}"
        for days in (9, 10)
    }
    home.run(ago[10], "--quick-gen-key", user_id, "ed25519", "default", "5d")
    [fingerprint] = home.fingerprints(user_id)
    home.run(ago[10], "--quick-add-key", fingerprint, "cv25519", "encr", "never")
    expired = home.export(fingerprint)
    home.run(ago[9], "--quick-set-expire", fingerprint, "2y")
    return expired, home.export(fingerprint)


@contextmanager
def gpg_home() -> Iterator[GpgHome]:
    """Make a GnuPG home, and end its agent and dirmngr afterwards."""
    path = Path(tempfile.mkdtemp(prefix="sm", dir="/tmp"))
    try:
        yield GpgHome(path)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(path), "--kill", "all"], check=False, capture_output=True)
        shutil.rmtree(path, ignore_errors=True)
