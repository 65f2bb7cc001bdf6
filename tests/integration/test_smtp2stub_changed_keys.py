"""Keys on the whole system: for one that is not published yet mail waits, one that changes is reported and not used."""

from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from commands.keys import keys
from stubmail.keyring import Keyring
from stubmail.openpgp import Certificate
from stubmail.testing.network import Network
from stubmail.testing.plugin import StubNetwork
from stubmail.testing.walk import Correspondent, compose
from tests.support.gpg import need
from tests.support.keys import make_key, public
from tests.support.waiting import wait_until

DOMAINS = {"alpha.example": ["alice"], "beta.example": ["bob"]}
until = partial(wait_until, seconds=60.0)  # a whole network takes its time


@pytest.fixture
def network(stub_network: StubNetwork) -> Network:
    need("gpg", "gnupg")
    return stub_network(DOMAINS)


def people(network: Network) -> tuple[Correspondent, Correspondent]:
    alpha, beta = network.domains.values()
    return Correspondent("alice", alpha), Correspondent("bob", beta)


def log(network: Network) -> str:
    return (network.root / "logs" / "alpha.example_smtp2stub.log").read_text()


def published(network: Network) -> Path:
    """The file in which beta's key server finds bob's certificate."""
    [path] = network.domains["beta.example"].site.certificates.iterdir()
    return path


def publish(path: Path, certificate: bytes) -> None:
    """Put a certificate there in one go, as a new file, which the key server notices at once."""
    new = path.with_suffix(".new")
    new.write_bytes(certificate)
    new.replace(path)


def test_mail_waits_for_a_key_and_never_goes_in_clear_text(network: Network) -> None:
    alice, bob = people(network)
    path = published(network)
    certificate = path.read_bytes()
    path.unlink()
    alice.submit(bob.address, compose(alice.address, bob.address, "patience"))
    until(lambda: f"ask {bob.address} to publish one there" in log(network))
    assert not network.legacy_mbox.exists()
    publish(path, certificate)
    until(lambda: alice.outbox(network).get(str(bob.address)) == "waiting")
    assert not network.legacy_mbox.exists()


def test_another_key_at_the_key_server_is_reported_and_the_old_one_stays_in_use(network: Network) -> None:
    alice, bob = people(network)
    for sender, recipient in ((alice, bob), (bob, alice)):
        sender.submit(recipient.address, compose(sender.address, recipient.address, "introduction"))
    until(lambda: len(alice.read()) == 1 and len(bob.read()) == 1)
    path = published(network)
    old, other = Certificate.parse(path.read_bytes()), Certificate.parse(public(make_key(f"Bob <{bob.address}>")))
    publish(path, other.armored())
    gateway = network.kill("alpha.example/smtp2stub")  # the next one has not asked for bob's key yet
    until(lambda: network.pids["alpha.example/smtp2stub"] != gateway)
    network.wait_ready()
    alice.submit(bob.address, compose(alice.address, bob.address, "for the old key"))
    until(lambda: len(bob.read()) == 2)
    until(lambda: "key changed" in log(network))
    assert f"keyring={old.fingerprint}" in log(network)
    assert f"server={other.fingerprint}" in log(network)
    home = next(network.domains["alpha.example"].site.keys.glob("alice*"))
    listed = CliRunner().invoke(keys, ["list", "--gnupghome", str(home)])
    assert f"{bob.address}  {old.fingerprint}  usable  changed: {other.fingerprint} is offered instead" in listed.output
    assert [held.fingerprint for held in Keyring(home).correspondents()[bob.address.key]] == [old.fingerprint]
