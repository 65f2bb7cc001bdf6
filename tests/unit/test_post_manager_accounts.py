"""`post_manager accounts`: the file is changed and nothing else in it, only a good one replaces it, usage is shown."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from services.post_manager.commands.accounts import accounts
from services.post_manager.policy import load_accounts
from tests.support.store import Person, running_store

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")
OTHER = "0123456789ABCDEF0123456789ABCDEF01234567"
FILE = f"""\
# who may store posts
[accounts.alice]
address = "alice@alpha.example"  # the boss
fingerprint = "{ALICE.fingerprint}"
quota_posts = 5

# the others
[accounts.carol]
address = "carol@alpha.example"
fingerprint = "{OTHER}"
"""


class Desk:
    """The command, with a store that does not run."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.file: Path = store.section.accounts
        self.file.write_text(FILE)
        self.file.chmod(0o640)
        self.config: Path = store.section.spool / "stub.conf"
        self.config.write_text(
            f'[domain]\nname = "alpha.example"\n'
            f'[post_manager]\nspool = "{store.section.spool}"\naccounts = "{self.file}"\n'
        )

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(accounts, arguments, obj=self.config)

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.output

    def refused(self, status: int, *arguments: str) -> str:
        before = self.file.read_text()
        result = self.run(*arguments)
        assert result.exit_code == status, result.output
        assert self.file.read_text() == before
        return result.output


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    with running_store(tmp_path, [ALICE]) as store:
        yield Desk(store)


def test_list_and_show_tell_what_waits(desk: Desk) -> None:
    desk.store.talker(ALICE).keep(BOB, b"x" * 1000)
    rows = {row["name"]: row for row in json.loads(desk.ok("list", "--json"))}
    assert (rows["alice"]["posts"], rows["alice"]["octets"], rows["alice"]["quota_posts"]) == (1, 1004, 5)
    assert (rows["carol"]["posts"], rows["carol"]["quota_posts"]) == (0, 10_000)
    assert rows["carol"]["lifetime_days"] == 30
    [first, second, third] = desk.ok("list").splitlines()
    assert first.split() == ["account", "address", "posts", "of", "octets", "of", "rate"]
    assert second.split()[:5] == ["alice", "alice@alpha.example", "1", "5", "1004"]
    assert third.startswith("carol")
    assert json.loads(desk.ok("show", "alice", "--json")) == rows["alice"]
    assert f"fingerprint:    {ALICE.fingerprint}\n" in desk.ok("show", "alice")
    assert "no account bob" in desk.refused(os.EX_NOUSER, "show", "bob")


def test_an_account_is_added_and_comments_stay(desk: Desk, tmp_path: Path) -> None:
    certificate = tmp_path / "bob.pgp"
    certificate.write_bytes(BOB.certificate)
    said = desk.ok("add", "bob", "--address", BOB.address, "--certificate", str(certificate), "rate=7")
    assert "no store runs" in said
    text = desk.file.read_text()
    assert text.startswith(FILE.rstrip())
    [bob] = [account for account in load_accounts(desk.file, desk.store.section.terms) if account.name == "bob"]
    assert (bob.fingerprint, str(bob.address), bob.rate) == (BOB.fingerprint, BOB.address, 7)
    assert desk.file.stat().st_mode & 0o777 == 0o640


def test_limits_are_set_and_taken_back(desk: Desk) -> None:
    desk.ok("set", "alice", "quota_posts=9", "rate=3")
    assert json.loads(desk.ok("show", "alice", "--json"))["quota_posts"] == 9
    desk.ok("set", "alice", "quota_posts=default", "rate=default", "max_post=default")
    assert desk.file.read_text() == FILE.replace("quota_posts = 5\n", "")


def test_an_account_is_removed(desk: Desk) -> None:
    alice, bob = desk.store.talker(ALICE), desk.store.talker(BOB)
    post_id, _ = alice.keep(BOB, b"body")
    assert "1 post that waits stays until it is fetched" in desk.ok("remove", "alice")
    assert [account.name for account in load_accounts(desk.file, desk.store.section.terms)] == ["carol"]
    assert "# the others" in desk.file.read_text()
    assert bob.fetch((post_id, 0))[0][1] == b"headbody"
    desk.ok("remove", "carol")
    assert len(load_accounts(desk.file, desk.store.section.terms)) == 0
    desk.ok("add", "dave", "--address", "dave@alpha.example", "--fingerprint", OTHER)
    assert len(load_accounts(desk.file, desk.store.section.terms)) == 1


def test_the_first_account_makes_the_file(desk: Desk) -> None:
    desk.file.unlink()
    for arguments in ("list",), ("show", "alice"), ("remove", "alice"):
        result = desk.run(*arguments)
        assert result.exit_code == os.EX_CONFIG
        assert f"no accounts file {desk.file}; `post_manager accounts add` makes one" in result.output
    assert "no account alice" in desk.run("set", "alice", "rate=1").output
    assert not desk.file.exists()
    desk.ok("add", "dave", "--address", "dave@alpha.example", "--fingerprint", OTHER)
    [dave] = load_accounts(desk.file, desk.store.section.terms)
    assert (dave.name, dave.fingerprint) == ("dave", OTHER)
    assert desk.file.stat().st_uid == desk.file.parent.stat().st_uid  # so that the store can read it
    assert desk.file.stat().st_mode & 0o777 == 0o600


def test_what_would_break_the_file_is_refused(desk: Desk, tmp_path: Path) -> None:
    dave = ("add", "dave", "--address", "dave@alpha.example", "--fingerprint")
    assert "already" in desk.refused(os.EX_USAGE, "add", "alice", "--address", "a@b.example", "--fingerprint", OTHER)
    assert "whole one" in desk.refused(os.EX_CONFIG, *dave, "89ABCDEF")
    assert "mail address" in desk.refused(os.EX_CONFIG, "add", "x", "--address", "nobody", "--fingerprint", OTHER)
    same = ("add", "x", "--address", "carol@alpha.example", "--fingerprint", OTHER)
    assert "are the same" in desk.refused(os.EX_CONFIG, *same)
    assert "no limit" in desk.refused(os.EX_USAGE, "set", "alice", "quota=1")
    assert "whole number" in desk.refused(os.EX_USAGE, "set", "alice", "rate=-1")
    assert "lifetime_days" in desk.refused(os.EX_CONFIG, "set", "alice", "lifetime_days=0")
    assert "no account bob" in desk.refused(os.EX_NOUSER, "set", "bob", "rate=1")
    assert "no account bob" in desk.refused(os.EX_NOUSER, "remove", "bob")
    assert "either" in desk.refused(os.EX_USAGE, "add", "x", "--address", "x@alpha.example")
    (tmp_path / "junk").write_bytes(b"junk")
    junk = ("add", "x", "--address", "x@alpha.example", "--certificate", str(tmp_path / "junk"))
    assert "not a certificate" in desk.refused(os.EX_DATAERR, *junk)
    (tmp_path / "bob.pgp").write_bytes(BOB.certificate)
    other = ("add", "x", "--address", "x@alpha.example", "--certificate", str(tmp_path / "bob.pgp"))
    text = desk.refused(os.EX_DATAERR, *other)
    assert text.rstrip().endswith("bob.pgp is not the certificate of x@alpha.example, but of bob@beta.example")
    nobody = ("add", "x", "--address", "nobody", "--certificate", str(tmp_path / "bob.pgp"))
    assert "'nobody' is not a mail address" in desk.refused(os.EX_DATAERR, *nobody)
    desk.file.write_text("[accounts")
    assert "not valid TOML" in desk.refused(os.EX_CONFIG, "set", "alice", "rate=1")
    desk.file.write_text("x = 1")
    assert "nothing but tables" in desk.refused(os.EX_CONFIG, "remove", "alice")


@pytest.mark.parametrize(
    "text",
    [
        f'[accounts]\nalice = {{address = "a@b.example", fingerprint = "{OTHER}"}}\n',
        f'[accounts.alice] # one\naddress = "a@b.example"\nfingerprint = "{OTHER}"\n# end',
        f'# top\n\n[accounts."alice"]\nfingerprint = "{OTHER}"\n# within\naddress = "a@b.example"\n',
    ],
)
def test_it_does_with_whatever_way_the_file_is_written(desk: Desk, text: str) -> None:
    desk.file.write_text(text)
    desk.ok("set", "alice", "rate=5")
    desk.ok("add", "carol", "--address", "c@b.example", "--fingerprint", OTHER)
    assert [account.rate for account in load_accounts(desk.file, desk.store.section.terms)] == [5, None]
    desk.ok("remove", "alice")
    [carol] = load_accounts(desk.file, desk.store.section.terms)
    assert carol.name == "carol"
    assert ("# top" in text) == ("# top" in desk.file.read_text())


def test_an_account_is_removed_also_while_the_database_is_away(desk: Desk) -> None:
    with desk.config.open("a") as config:
        config.write('database = "postgresql://x@127.0.0.1:1/x"\n')
    assert "posts that wait stay until they are fetched" in desk.ok("remove", "alice")
    assert [account.name for account in load_accounts(desk.file, desk.store.section.terms)] == ["carol"]
    desk.refused(os.EX_UNAVAILABLE, "list")
