"""The whole system on loopback: the demo as its users run it, and what a listener between the domains would see."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from stubmail.testing.network import Network
from stubmail.testing.plugin import StubNetwork
from stubmail.testing.walk import Correspondent, compose, walk
from tests.support.waiting import wait_until

DOMAINS = {"alpha.example": ["alice"], "beta.example": ["bob"]}
STUBMAIL = [sys.executable, "-m", "commands"]
until = partial(wait_until, seconds=60.0)  # a whole network takes its time


def people(network: Network) -> tuple[Correspondent, Correspondent]:
    first, second = network.domains.values()
    return Correspondent("alice", first), Correspondent("bob", second)


def introduce(network: Network) -> tuple[Correspondent, Correspondent]:
    """Carry one message each way, so that both keyrings hold both keys."""
    alice, bob = people(network)
    for sender, recipient in ((alice, bob), (bob, alice)):
        sender.submit(recipient.address, compose(sender.address, recipient.address, "introduction"))
    until(lambda: len(alice.read()) == 1 and len(bob.read()) == 1)
    return alice, bob


def test_the_demo_passes_and_describes_itself(tmp_path: Path) -> None:
    facts = tmp_path / "demo.json"
    done = subprocess.run([*STUBMAIL, "demo", "--json", str(facts)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed after" in done.stdout
    data = json.loads(facts.read_text())
    assert set(data["domains"]) == {"alpha.example", "beta.example"}
    for domain in data["domains"].values():
        assert set(domain) == {"smtp", "pop3", "pop3s", "store", "udp", "hkp", "accounts"}
    account = data["domains"]["alpha.example"]["accounts"]["alice"]
    assert set(account) == {"address", "password", "gnupghome", "mbox"}
    assert data["legacy"]["mbox"]
    for pid in data["processes"].values():
        assert not Path(f"/proc/{pid}").exists(), "a process was left behind"


def test_a_demo_that_stays_restarts_what_dies_and_ends_on_sigterm(tmp_path: Path) -> None:
    facts = tmp_path / "demo.json"
    command = [*STUBMAIL, "demo", "--keep", "--json", str(facts)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert demo.stdout is not None
        lines = iter(demo.stdout.readline, "")
        assert any("Ctrl-C" in line for line in lines)
        name = "beta.example/pop3d"
        old = json.loads(facts.read_text())["processes"][name]
        os.kill(old, signal.SIGKILL)
        assert any(f"{name} died and was started again" in line for line in lines)
        assert json.loads(facts.read_text())["processes"][name] != old
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(timeout=30) == 0
    finally:
        demo.kill()
        demo.communicate()


@pytest.mark.parametrize("domains", ["alpha.example", "alpha.example,alpha.example", "alpha.org,beta.org", "a b,c"])
def test_domains_that_cannot_be_played_are_a_usage_error(domains: str) -> None:
    done = subprocess.run([*STUBMAIL, "demo", "--domains", domains], capture_output=True, text=True, timeout=60)
    assert done.returncode == os.EX_USAGE
    assert len(done.stderr.splitlines()) == 1


def test_a_listener_between_the_domains_sees_no_line_of_any_message(stub_network: StubNetwork) -> None:
    network = stub_network(DOMAINS)
    for _ in walk(network, time.monotonic()):
        pass
    seen = b"".join(bytes(link.recorded) for domain in network.domains.values() for link in domain.links.values())
    assert len(seen) > 10_000
    alice, bob = people(network)
    messages = [message for reader in (alice, bob) for message in reader.read()]
    assert len(messages) == 3
    for message in messages:
        head, _, body = message.partition(b"\r\n\r\n")
        secret = [
            line.partition(b": ")[2] for line in head.split(b"\r\n") if line.startswith((b"Subject:", b"Message-ID:"))
        ]
        secret += [line for line in body.split(b"\r\n") if len(line) > 7 and not line.startswith(b"Content-")]
        assert len(secret) > 30
        assert [line for line in secret if line in seen] == []


def test_mail_waits_out_a_store_that_is_down(stub_network: StubNetwork) -> None:
    network = stub_network(DOMAINS)
    alice, bob = introduce(network)
    link = network.domains["alpha.example"].links["store"]
    link.faults.cut = True
    alice.submit(bob.address, compose(alice.address, bob.address, "patience"))
    until(lambda: b"deferred" in (network.root / "logs" / "alpha.example_smtp2stub.log").read_bytes())
    link.faults.cut = False
    until(lambda: len(bob.read()) == 2)


def test_mail_for_a_domain_whose_dns_fails_is_deferred_and_never_sent_in_the_clear(stub_network: StubNetwork) -> None:
    network = stub_network(DOMAINS)
    alice, bob = people(network)
    os.kill(network.pids["dns"], signal.SIGSTOP)
    alice.submit(bob.address, compose(alice.address, bob.address, "no answer is not an answer"))
    until(lambda: b"deferred" in (network.root / "logs" / "alpha.example_smtp2stub.log").read_bytes())
    os.kill(network.pids["dns"], signal.SIGCONT)
    until(lambda: alice.outbox(network).get(str(bob.address)) == "waiting")
    assert not network.legacy_mbox.exists() or b"no answer" not in network.legacy_mbox.read_bytes()


@pytest.mark.parametrize("service", ["alpha.example/smtp2stub", "alpha.example/post_manager", "beta.example/http2mbox"])
def test_kill_9_in_mid_flow_loses_and_duplicates_nothing(stub_network: StubNetwork, service: str) -> None:
    network = stub_network(DOMAINS)
    alice, bob = introduce(network)
    accepted = []
    for number in range(30):
        message = compose(alice.address, bob.address, f"mid-flow {number}")
        if number % 10 == 5:
            old = network.kill(service)
            until(lambda: network.pids[service] != old)  # noqa: B023
        try:
            alice.submit(bob.address, message)
        except OSError:  # the gateway is away: no 250, no promise
            continue
        accepted.append(message)
    until(lambda: sum(b"mid-flow" in message for message in bob.read()) >= len(accepted))
    arrived = bob.read()
    for message in accepted:
        assert sum(each.endswith(message) for each in arrived) == 1
