"""Salts for names that nobody has: they look like anybody's, last, and tell nothing of any password."""

import subprocess
import sys
from pathlib import Path

import pytest

from stubmail import scram_users
from stubmail.passwords import scram_password
from stubmail.scram_users import ScramUsers, machine_secret
from stubmail.users import User, Users


def salts(*passwords: str) -> list[bytes]:
    users = Users([User(f"user{number}", password=password) for number, password in enumerate(passwords)])
    return [ScramUsers(users).keys(name).salt for name in (b"nobody", b"user0", b"USER0", b"user0@x")]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "machine-id"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(scram_users, "MACHINE_ID", path)
    return path


def test_the_salt_of_a_name_is_the_same_after_a_restart(machine: Path) -> None:
    nobody, plain, same, address = salts("{PLAIN}x")
    assert salts("{PLAIN}x") == [nobody, plain, same, address]
    assert plain == same
    assert len({nobody, plain, address}) == 3


def test_no_salt_depends_on_a_password(machine: Path) -> None:
    """Or whoever asks for one could try out passwords by himself, at any speed."""
    kept = scram_password("x")
    assert salts("{PLAIN}x") == salts("{PLAIN}y")
    assert salts(kept)[0] == salts("{PLAIN}y")[0]


def test_another_machine_has_other_salts(machine: Path) -> None:
    before = salts("{PLAIN}x")
    machine.write_text("f" * 32 + "\n")
    assert not set(before) & set(salts("{PLAIN}x"))


@pytest.mark.parametrize("content", [None, "", "uninitialized\n"])
def test_without_an_id_chance_is_the_secret(machine: Path, content: str | None) -> None:
    with_id = machine_secret()
    if content is None:
        machine.unlink()
    else:
        machine.write_text(content)
    assert machine_secret() == machine_secret() != with_id
    script = (
        "import pathlib, stubmail.scram_users as s; s.MACHINE_ID = pathlib.Path('/none'); print(s.machine_secret())"
    )
    assert len({subprocess.check_output([sys.executable, "-c", script]) for _ in range(2)}) == 2


def test_nobody_knows_the_password_of_a_name_that_nobody_has(machine: Path) -> None:
    users = ScramUsers(Users([User("bob", password="{PLAIN}x")]))
    assert users.keys(b"nobody").stored != users.keys(b"nobody").stored
    assert users.keys(b"bob") == users.keys(b"bob")
