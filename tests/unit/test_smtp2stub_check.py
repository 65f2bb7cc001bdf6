"""smtp2stub --check: whether notices can go where the users file says."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.smtp2stub import check
from services.smtp2stub.settings import Smtp2stub
from stubmail.address import Address
from stubmail.errors import Exit
from stubmail.settings import Dns, Domain
from tests.support.ports import LOOPBACK


@dataclass
class Key:
    fingerprint: str = "F" * 40


class FakeKeyring:
    """Has everybody's key."""

    def __init__(self, home: Path) -> None: ...

    def identity(self, address: Address, passphrase: str) -> Key:
        return Key()


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "Keyring", FakeKeyring)


def run(directory: Path, maildrop: str = 'maildrop = "mbox:alice"', listen: str = "") -> None:
    users = directory / "users.toml"
    users.write_text(f'[users.alice]\naddress = "alice@alpha.example"\ngnupghome = "keys"\n{maildrop}\n')
    spool = directory / "spool"
    options = Smtp2stub(users, listen=listen, admin_listen="", spool=spool, reserve_bytes=0, policy="never")
    check.check_all(Domain("alpha.example"), Dns(), options)


@pytest.mark.parametrize(
    ("maildrop", "place"),
    [("mbox:alice", "/alice"), ("maildir:Maildir", "/Maildir"), ("pipe:/bin/cat -u", "/bin/cat -u")],
)
def test_all_three_kinds_of_maildrop_will_do(
    tmp_path: Path, maildrop: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, f'maildrop = "{maildrop}"')
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("user alice"))
    assert line.endswith(place)


@pytest.mark.parametrize(
    ("maildrop", "status", "words"),
    [
        ("", os.EX_CONFIG, "user alice has no maildrop"),
        ('maildrop = "mbox:none/alice"', os.EX_NOPERM, "user alice: the directory .*none is missing"),
        ('maildrop = "maildir:none/Maildir"', os.EX_NOPERM, "user alice: the directory .*none is missing"),
        ('maildrop = "pipe:/nonexistent/mda"', os.EX_NOPERM, "user alice: /nonexistent/mda is missing"),
        ('maildrop = "pipe:mda"', os.EX_CONFIG, "user alice: the command .* absolute path"),
    ],
)
def test_a_maildrop_that_will_not_do_is_named_with_its_user(
    tmp_path: Path, maildrop: str, status: int, words: str
) -> None:
    with pytest.raises(Exit, match=words) as caught:
        run(tmp_path, maildrop)
    assert caught.value.status == status


def test_an_address_that_cannot_be_listened_on_comes_with_the_advice_that_helps(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken, pytest.raises(Exit, match="does another program have it"):
        run(tmp_path, listen=f"{LOOPBACK}:{taken.getsockname()[1]}")
    with pytest.raises(Exit, match=r"\[smtp2stub\] listen to an address of this machine"):
        run(tmp_path, listen="192.0.2.1:0")  # RFC 5737
