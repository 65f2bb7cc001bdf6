"""Many accounts on one gateway, each with its own GnuPG home, with and without passphrases, on the real gpg."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from services.smtp2stub.__main__ import main
from services.smtp2stub.account import Account, Parcel
from services.smtp2stub.keys import Addressee
from services.smtp2stub.sealing import Destination
from stubmail.address import Address
from stubmail.discovery import Store
from stubmail.keyring import Keyring
from stubmail.openpgp import Identity
from stubmail.openpgp.agent import AgentIdentity
from stubmail.queue import Outcome, Queue, State
from stubmail.users import User, Users, load_users
from tests.support.gateway import ALICE, BOB, NOW, accept, make_item, make_queue
from tests.support.gpg import GpgHome, gpg_home, need
from tests.support.key_servers import KeyServers
from tests.support.posting import STORE, MemoryResolver, MemoryStore, person

DORA = Address("dora", "alpha.example")
SECRET = "correct horse, battery: staple"


@pytest.fixture(scope="module")
def alice() -> Iterator[GpgHome]:
    """Alice's key has a passphrase."""
    need("gpg", "gnupg")
    with gpg_home() as home:
        Keyring(home.path).generate(ALICE, "Alice", SECRET)
        yield home


@pytest.fixture(scope="module")
def dora() -> Iterator[GpgHome]:
    """Dora's has none."""
    need("gpg", "gnupg")
    with gpg_home() as home:
        Keyring(home.path).generate(DORA, "Dora")
        yield home


@pytest.fixture(scope="module")
def bob() -> Iterator[Identity]:
    with person(BOB) as found:
        yield found


@pytest.fixture(autouse=True)
def forgetful(alice: GpgHome) -> None:
    """The agent has no passphrase of an earlier test."""
    subprocess.run(["gpgconf", "--homedir", str(alice.path), "--kill", "gpg-agent"], check=True)


class Posting(Account):
    """An account at a store in memory."""

    def __init__(self, user: User, memory: MemoryStore) -> None:
        assert user.gnupghome is not None
        http: Any = KeyServers()
        resolver: Any = MemoryResolver()
        super().__init__(user, Keyring(user.gnupghome), resolver, http, lambda: NOW, STORE)
        self._memory = memory

    def _connect(self, store: Store, identity: Identity) -> Any:
        return self._memory


def users(directory: Path, alice: GpgHome, dora: GpgHome, passphrase: str | None = SECRET) -> Users:
    """A users file with both, and alice's passphrase in a file beside it."""
    text = f'[users.dora]\naddress = "{DORA}"\ngnupghome = "{dora.path}"\nmaildrop = "mbox:dora"\n'
    text += f'[users.alice]\naddress = "{ALICE}"\ngnupghome = "{alice.path}"\nmaildrop = "mbox:alice"\n'
    if passphrase is not None:
        (directory / "secret").write_text(passphrase + "\n")
        text += 'passphrase_file = "secret"\n'
    (directory / "users.toml").write_text(text)
    return load_users(directory / "users.toml")


def find(accounts: Users, name: str) -> User:
    user = accounts.find(name)
    assert user is not None
    return user


def send(queue: Queue, number: int, account: Account, bob: Identity) -> Outcome:
    accept(queue, make_item(number))
    [stored] = queue.arrived(make_item(number).id)
    [recipient] = stored.item.recipients
    parcel = Parcel(stored, [Destination(0, recipient.post_id, Addressee(BOB, bob.certificate))])
    account.post([parcel])
    return parcel.outcomes[0]


def test_each_account_signs_with_the_key_in_its_own_home(
    tmp_path: Path, alice: GpgHome, dora: GpgHome, bob: Identity
) -> None:
    accounts, queue, memory = users(tmp_path, alice, dora), make_queue(tmp_path / "spool"), MemoryStore()
    for number, name in enumerate(("alice", "dora")):
        account = Posting(find(accounts, name), memory)
        assert send(queue, number, account, bob).state is State.DONE
        assert send(queue, number + 10, account, bob).state is State.DONE, "again, the key being unlocked"
    signers = []
    certificates = {home: home.fingerprints()[0] for home in (alice, dora)}
    for post in memory.posts.values():
        unsealed = bob.unseal(
            post.head + post.body,
            lambda name: Keyring(alice.path).by_fingerprint(name) or Keyring(dora.path).by_fingerprint(name),
            10_000,
        )
        signers.append(unsealed.signer)
    assert signers == [certificates[alice]] * 2 + [certificates[dora]] * 2


@pytest.mark.parametrize("passphrase", ["wrong", "", SECRET.upper(), "two\nlines", None])
def test_a_wrong_passphrase_keeps_mail_waiting_until_it_is_right(
    tmp_path: Path, alice: GpgHome, dora: GpgHome, bob: Identity, passphrase: str | None
) -> None:
    queue, memory = make_queue(tmp_path / "spool"), MemoryStore()
    account = Posting(find(users(tmp_path, alice, dora, passphrase), "alice"), memory)
    outcome = send(queue, 1, account, bob)
    assert (outcome.state, outcome.code[:2]) == (State.WAITING, "4.")
    assert "passphrase" in outcome.text
    assert memory.posts == {}
    dora_too = Posting(find(load_users(tmp_path / "users.toml"), "dora"), memory)
    assert send(queue, 2, dora_too, bob).state is State.DONE, "she is not concerned"
    if passphrase is not None:
        (tmp_path / "secret").write_text(SECRET)
        assert send(queue, 3, account, bob).state is State.DONE, "without a restart"


def test_a_passphrase_file_that_is_missing_keeps_mail_waiting(
    tmp_path: Path, alice: GpgHome, dora: GpgHome, bob: Identity
) -> None:
    account = Posting(find(users(tmp_path, alice, dora), "alice"), MemoryStore())
    (tmp_path / "secret").unlink()
    outcome = send(make_queue(tmp_path / "spool"), 1, account, bob)
    assert (outcome.state, outcome.code) == (State.WAITING, "4.3.5")
    assert str(tmp_path / "secret") in outcome.text


def test_the_agent_may_have_the_passphrase(tmp_path: Path, alice: GpgHome, dora: GpgHome, bob: Identity) -> None:
    program = Path("/usr/lib/gnupg/gpg-preset-passphrase")
    if not program.exists():
        pytest.skip(f"{program} is missing: apt-get install gpg-agent")
    (alice.path / "gpg-agent.conf").write_text("allow-preset-passphrase\n")
    listed = alice.run("--with-colons", "--with-keygrip", "--list-keys").stdout.decode()
    grips = [line.split(":")[9] for line in listed.splitlines() if line.startswith("grp:")]
    environment = {**os.environ, "GNUPGHOME": str(alice.path)}
    subprocess.run(["gpg-connect-agent", "/bye"], check=True, env=environment, capture_output=True)
    for grip in grips:
        subprocess.run([program, "--preset", grip], input=SECRET.encode(), check=True, env=environment)
    account = Posting(find(users(tmp_path, alice, dora, None), "alice"), memory := MemoryStore())
    assert send(make_queue(tmp_path / "spool"), 1, account, bob).state is State.DONE
    assert isinstance(account.identity(), AgentIdentity)
    [post] = memory.posts.values()
    unsealed = bob.unseal(post.head + post.body, Keyring(alice.path).by_fingerprint, 10_000)
    assert unsealed.signer == alice.fingerprints()[0]


def check(directory: Path) -> Result:
    config = directory / "stub.conf"
    config.write_text(
        f'[domain]\nname = "alpha.example"\n[smtp2stub]\nlisten = "127.0.0.1:0"\nadmin_listen = ""\n'
        f'users = "{directory / "users.toml"}"\nspool = "{directory / "spool"}"\npolicy = "never"\n'
    )
    return CliRunner().invoke(main, ["--config", str(config), "--check"])


@pytest.mark.parametrize(
    ("passphrase", "words"),
    [
        (SECRET, ""),
        ("wrong", "user alice: the passphrase of the secret key is wrong"),
        (None, "user alice: gpg cannot sign with key FINGERPRINT; if it has a passphrase, name its passphrase_file"),
    ],
)
def test_check_says_whose_passphrase_is_wrong(
    tmp_path: Path, alice: GpgHome, dora: GpgHome, passphrase: str | None, words: str
) -> None:
    users(tmp_path, alice, dora, passphrase)
    done = check(tmp_path)
    assert f"user dora: {DORA}, key {dora.fingerprints()[0]}" in done.output
    assert words.replace("FINGERPRINT", alice.fingerprints()[0]) in done.output
    assert (done.exit_code == 0) == (not words), done.output
    assert SECRET not in done.output
