"""`stubmail held` and `contacts` over what the puller has noted, without a puller."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from commands import puller
from commands.contacts import contacts
from commands.held import held
from services.http2mbox.state import HeldPost, OtherSender, State, delivery_name
from stubmail.address import Address
from stubmail.cookies import account_directory
from stubmail.pull_state import FILE_NAME

BOB = Address.parse("bob@beta.example")
ALICE_KEY, OTHER_KEY = "A1" * 20, "5E" * 20
ONE, TWO = bytes([1] * 16), bytes([2] * 16)


class Site:
    """Bob's account, for which mail was pulled."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "users.toml").write_text(f'[users.bob]\naddress = "{BOB}"\n[users.eve]\naddress = "eve@beta.example"\n')
        (root / "stub.conf").write_text(f'[http2mbox]\nusers = "{root / "users.toml"}"\nstate = "{root}"\n')
        directory = account_directory(root, BOB)
        directory.mkdir()
        self.state = State(directory / FILE_NAME)
        self.pulls: list[Address] = []

    def hold(self, post_id: bytes, time: int = 100) -> None:
        who = "alice@alpha.example"
        text = "the message is not signed"
        self.state.hold(
            HeldPost(post_id, ALICE_KEY, "alpha.example", who, 9, "unsigned", text, "", ALICE_KEY, False, "d", time)
        )

    def run(self, group: click.Group, *arguments: str) -> Result:
        return CliRunner().invoke(group, [*arguments, "--config", str(self.root / "stub.conf")])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path)

    def pull(config: Path, address: Address) -> int:
        site.pulls.append(address)
        return 75  # another puller is at work

    monkeypatch.setattr(puller, "pull", pull)
    yield site
    site.state.close()


def test_a_correspondent_with_another_key_is_listed_with_both_and_the_remedy(site: Site) -> None:
    other = OtherSender(OTHER_KEY, "alice@alpha.example", 3, ALICE_KEY)
    site.state.set_others("alpha.example", [other], 100)
    (row,) = json.loads(site.run(held, "list", "--json").stdout)
    assert (row["id"], row["reason"], row["found"], row["expected"]) == (None, "key-changed", OTHER_KEY, ALICE_KEY)
    line = site.run(held, "list").stdout
    assert f"3 of alice@alpha.example with key {OTHER_KEY}; the keyring has {ALICE_KEY}" in line
    assert f"stubmail keys accept --account {BOB} alice@alpha.example {OTHER_KEY}" in line
    assert site.run(contacts, "pending").stdout == ""


def test_the_oldest_comes_first(site: Site) -> None:
    site.hold(ONE, 200)
    site.hold(TWO, 100)
    assert [row["id"] for row in json.loads(site.run(held, "list", "--json").stdout)] == [TWO.hex(), ONE.hex()]


def test_a_decision_is_kept_for_the_puller_at_work(site: Site) -> None:
    site.hold(ONE)
    done = site.run(held, "release", ONE.hex())
    assert (done.exit_code, done.stdout) == (os.EX_TEMPFAIL, f"{ONE.hex()}  pending\n")
    assert site.pulls == [BOB]
    assert site.state.decided_domains() == {"alpha.example"}
    assert "[release with the next pull]" in site.run(held, "list").stdout
    assert site.run(held, "drop", ONE.hex()).exit_code == os.EX_TEMPFAIL  # he has thought again
    assert "[drop with the next pull]" in site.run(held, "list").stdout


@pytest.mark.parametrize("gone", [True, False])
def test_what_came_of_it_is_told(site: Site, monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    site.hold(ONE)

    def pull(config: Path, address: Address) -> int:
        if gone:
            site.state.unhold([(ONE, ALICE_KEY)])
        else:
            site.state.record([delivery_name((ONE, ALICE_KEY))], 100)
        return 0

    monkeypatch.setattr(puller, "pull", pull)
    done = site.run(held, "release", ONE.hex(), "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {ONE.hex(): "gone" if gone else "delivered"})


def test_strangers_are_listed_until_they_are_refused(site: Site) -> None:
    site.state.set_others("alpha.example", [OtherSender(OTHER_KEY, "carol@alpha.example", 2, "")], 100)
    assert site.run(contacts, "pending").stdout == f"carol@alpha.example  {OTHER_KEY}       2  1970-01-01T00:01:40Z\n"
    assert site.run(contacts, "refuse", "Carol@Alpha.example").exit_code == 0
    assert site.run(contacts, "pending").stdout == ""
    assert site.state.refused() == {"carol@alpha.example"}
    assert site.state.standing().strangers == 0


def test_an_account_for_which_nothing_was_pulled_has_nothing(site: Site) -> None:
    assert site.run(held, "list", "--account", "eve@beta.example").stdout == ""
    assert site.run(contacts, "refuse", "carol@alpha.example", "--account", "eve").exit_code == os.EX_NOUSER
    assert site.run(contacts, "refuse", "carol").exit_code == os.EX_USAGE
