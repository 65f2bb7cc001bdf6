"""`stubmail outbox` against a real store: list, show and withdraw what our own accounts have sent."""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from commands.outbox import outbox
from stubmail.address import Address
from stubmail.discovery import Resolver, Store
from stubmail.http_client import HttpClient
from stubmail.keyring import Keyring
from stubmail.store_client import NewPost, StoreClient
from tests.support.ports import LOOPBACK
from tests.support.store_process import StoreProcess

ALICE = Address.parse("alice@alpha.example")
BOB = Address.parse("bob@beta.example")
RECIPIENT = "B" * 40


class Site:
    """A store, the configuration of a gateway beside it, and alice, who has sent something."""

    def __init__(self, root: Path, home: Path) -> None:
        self.config = root / "gateway.conf"
        keyring = Keyring(home)
        certificate = keyring.generate(ALICE, "Alice")
        self.store = StoreProcess(root, [], host=LOOPBACK)
        table = f'[accounts.alice]\naddress = "{ALICE}"\nfingerprint = "{certificate.fingerprint}"\n'
        (root / "accounts.toml").write_text(table)
        self.store.start()
        url = f"http://{LOOPBACK}:{self.store.http}/post_manager"
        users = root / "users.toml"
        users.write_text(f'[users.alice]\naddress = "{ALICE}"\ngnupghome = "{home}"\n')
        dns = f'[dns]\nresolver = "{LOOPBACK}:9"\n'
        self.config.write_text(f'[smtp2stub]\nusers = "{users}"\nstore = "{url}"\n{dns}')
        http = HttpClient(Resolver((LOOPBACK, 9), allow_private=True))
        place = Store(LOOPBACK, self.store.http, "post_manager")
        client = StoreClient(http, place, keyring.identity(ALICE), ALICE)
        self.ids = [secrets.token_bytes(16) for _ in range(3)]
        client.store([NewPost(post_id, RECIPIENT, BOB, b"head", b"body") for post_id in self.ids])

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(outbox, [*arguments, "--config", str(self.config)])

    def states(self, *arguments: str) -> dict[str, str]:
        result = self.run("list", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return {post["id"]: post["state"] for post in json.loads(result.stdout)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = Path(tempfile.mkdtemp(prefix="sm", dir="/tmp"))
    site = Site(tmp_path_factory.mktemp("outbox"), home)
    yield site
    site.store.close()
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    shutil.rmtree(home)


def test_a_withdrawn_post_is_no_longer_listed_as_waiting(site: Site) -> None:
    assert site.states() == {post_id.hex(): "waiting" for post_id in site.ids}
    result = site.run("withdraw", site.ids[0].hex())
    assert (result.exit_code, result.stdout) == (0, f"{site.ids[0].hex()}  withdrawn\n")
    assert list(site.states("--state", "waiting")) == [post_id.hex() for post_id in site.ids[1:]]
    assert list(site.states("--state", "withdrawn", "--account", "alice")) == [site.ids[0].hex()]
    unknown = "0" * 32
    result = site.run("withdraw", "--json", unknown, site.ids[0].hex())
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {unknown: "absent", site.ids[0].hex(): "withdrawn"}


def test_a_list_for_people_has_a_line_for_each_post(site: Site) -> None:
    lines = site.run("list").stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:2] == [site.ids[1].hex(), "waiting"]
    assert lines[1].endswith("8  bob@beta.example")


def test_one_post_is_shown_with_all_that_is_known(site: Site) -> None:
    result = site.run("show", "--json", site.ids[2].hex())
    post = json.loads(result.stdout)
    assert (post["account"], post["address"], post["to"], post["size"]) == (str(ALICE), str(BOB), RECIPIENT, 8)
    assert post["expires"] - post["stored"] == 30 * 86_400
    assert f"to       {RECIPIENT}" in site.run("show", site.ids[2].hex()).stdout
    assert site.run("show", "0" * 32).exit_code == os.EX_DATAERR


def test_what_is_wrong_is_said(site: Site, tmp_path: Path) -> None:
    assert site.run("withdraw", "nonsense").exit_code == os.EX_USAGE
    result = site.run("list", "--account", "nobody@alpha.example")
    assert (result.exit_code, "no account" in result.stderr) == (os.EX_NOUSER, True)
    empty = tmp_path / "stub.conf"
    empty.write_text("[smtp2stub]\n")
    result = CliRunner().invoke(outbox, ["list", "--config", str(empty)])
    assert (result.exit_code, "users" in result.stderr) == (os.EX_CONFIG, True)
