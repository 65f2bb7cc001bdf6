"""The gateway in the hands of somebody who has never seen it: the sample, and what --check says to do."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stubmail.address import Address
from stubmail.dns.publication import Service, entries, format_zone
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone
from stubmail.users import load_users
from tests.support.gateway_process import REPOSITORY, store_for, store_url

HEAD = "$ORIGIN alpha.example.\n$TTL 60\n@ SOA ns h 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n"
PUBLISHED = format_zone(
    entries("alpha.example", Service("post.alpha.example", "keys.alpha.example", "post.alpha.example"))
)


class Newcomer:
    """Somebody with an empty home directory, whose machine finds names at a name server of the test."""

    def __init__(self, home: Path, dns: tuple[str, int]) -> None:
        self.home = home
        self.config = home / ".stub" / "stub.conf"
        self._environ = {name: value for name, value in os.environ.items() if name not in ("STUB_CONF",)} | {
            "HOME": str(home),
            "STUBMAIL_DNS_RESOLVER": f"{dns[0]}:{dns[1]}",
            "STUBMAIL_SMTP2STUB_LISTEN": "127.0.0.1:0",  # other tests may have the usual ports
            "STUBMAIL_SMTP2STUB_ADMIN_LISTEN": "127.0.0.1:0",
        }
        if os.geteuid() == 0:  # nobody's machine should have a spool because of a test
            self._environ["STUBMAIL_SMTP2STUB_SPOOL"] = str(home / "spool")

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY, env=self._environ, check=False
        )

    def provision(self) -> Path:
        """Have accounts made, as the README says; return the users file."""
        secret = self.home / "secret"
        secret.write_text("correct horse\n")
        root = self.home / "mail"
        done = self.run(
            "commands", "provision", "alice@alpha.example", "--root", str(root), "--password-file", str(secret)
        )
        assert done.returncode == 0, done.stderr
        return root / "accounts" / "users.toml"


@contextmanager
def newcomer(zone: str = HEAD + PUBLISHED) -> Iterator[Newcomer]:
    home = Path(tempfile.mkdtemp(prefix="sm"))
    try:
        with NameServer([parse_zone(zone)]) as server:
            yield Newcomer(home, server.address)
    finally:
        for keys in home.glob("mail/keys/*"):
            subprocess.run(["gpgconf", "--homedir", str(keys), "--kill", "all"], check=False)
        shutil.rmtree(home, ignore_errors=True)


def test_the_sample_pasted_back_passes_with_two_names_filled_in() -> None:
    with newcomer() as user:
        shown = user.run("services.smtp2stub")
        assert shown.returncode == os.EX_CONFIG
        assert str(user.config) in shown.stderr
        assert len(shown.stderr.splitlines()) == 1
        user.config.parent.mkdir()
        user.config.write_text(shown.stdout)
        empty = [line for line in shown.stdout.splitlines() if re.fullmatch(r'\w+ = ""', line)]
        assert empty == ['name = ""', 'users = ""']
        done = user.run("services.smtp2stub", "--check")
        assert (done.returncode, "[domain] name is missing" in done.stderr) == (os.EX_CONFIG, True)
        users = user.provision()
        text = shown.stdout.replace('name = ""', 'name = "alpha.example"')
        user.config.write_text(text.replace('users = ""', f"users = {json.dumps(str(users))}"))
        done = user.run("services.smtp2stub", "--check")
        assert done.returncode == os.EX_UNAVAILABLE, done.stderr
        assert "; " not in done.stderr, "the store alone is not there yet"
        assert "post_manager: post.alpha.example has no address" in done.stderr
        with store_for(Address("alice", "alpha.example"), load_users(users).find("alice").gnupghome) as store:
            user._environ["STUBMAIL_DNS_ALLOW_PRIVATE"] = "true"
            user.config.write_text(f'{user.config.read_text()}\nstore = "{store_url(store)}"\n')
            done = user.run("services.smtp2stub", "--check")
        assert (done.returncode, done.stderr) == (0, "")
        for words in ("spool:", "user alice: alice@alpha.example, key ", "store: http", "listen:"):
            assert words in done.stdout


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        (
            {"users": "/nonexistent/users.toml"},
            os.EX_CONFIG,
            "there is no users file /nonexistent/users.toml; `stubmail provision`",
        ),
        ({"listen": "127.0.0.1"}, os.EX_CONFIG, "listen: '127.0.0.1' is not HOST:PORT"),
        ({"listen": "192.0.2.1:587"}, os.EX_UNAVAILABLE, "listen: cannot listen on 192.0.2.1:587"),
        ({"spool": "/proc/nothing"}, os.EX_OSERR, "make it a directory of the user who runs smtp2stub"),
        ({"reserve_bytes": 2**60}, os.EX_OSERR, "make room, or lower [smtp2stub] reserve_bytes"),
        ({"tls_cert": "/nonexistent", "tls_key": "/nonexistent"}, os.EX_CONFIG, "cannot use /nonexistent"),
        (
            {"smarthost": "127.0.0.1:1", "smarthost_tls": "none"},
            os.EX_UNAVAILABLE,
            "cannot reach the smarthost 127.0.0.1",
        ),
        ({"policies": "/nonexistent"}, os.EX_CONFIG, "/nonexistent"),
        ({"lmtp_listen": "/nonexistent/lmtp"}, os.EX_NOPERM, "lmtp_listen: the directory /nonexistent is missing"),
    ],
)
def test_check_names_the_setting_and_what_to_do(
    provisioned: tuple[Newcomer, Path], lines: dict[str, object], status: int, words: str
) -> None:
    user, users = provisioned
    settings: dict[str, object] = {"users": str(users), "listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}
    settings |= {"spool": str(user.home / "spool")} | lines
    config = user.home / "other.conf"
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    config.write_text(f'[domain]\nname = "alpha.example"\n[smtp2stub]\n{text}')
    for name in ("LISTEN", "ADMIN_LISTEN", "SPOOL"):
        user._environ.pop(f"STUBMAIL_SMTP2STUB_{name}", None)
    done = user.run("services.smtp2stub", "--config", str(config), "--check")
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def provisioned() -> Iterator[tuple[Newcomer, Path]]:
    with newcomer() as user:
        yield user, user.provision()


def test_a_domain_without_records_is_told_which_to_publish() -> None:
    with newcomer(HEAD) as user:
        user.config.parent.mkdir()
        users = json.dumps(str(user.provision()))
        user.config.write_text(f'[domain]\nname = "alpha.example"\n[smtp2stub]\nusers = {users}\n')
        user._environ["STUBMAIL_SMTP2STUB_SPOOL"] = str(user.home / "spool")
        done = user.run("services.smtp2stub", "--check")
        assert done.returncode == os.EX_UNAVAILABLE
        assert "stubmail dns render alpha.example" in done.stderr
