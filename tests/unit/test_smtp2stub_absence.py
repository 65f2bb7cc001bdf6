"""Absent is not failed: only a name server's word that there are no records lets mail out in clear text."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.smtp2stub.destinations import Destinations, Found
from stubmail.discovery import Resolver
from stubmail.errors import PermanentError, TemporaryError
from stubmail.known_domains import KnownDomains
from stubmail.policies import Policies
from stubmail.routing import Policy, Route
from stubmail.testing.authority import Fault
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone
from tests.support.gateway import BOB, CAROL, Clock
from tests.support.posting import MemoryAccount, MemoryKeyring, MemoryResolver, MemoryStore, person

RECORDS = ("_stub._udp", "_pks._tcp", "_post._tcp")
FAULTS = (Fault.SERVFAIL, Fault.BOGUS, Fault.REFUSED, Fault.REFERRAL, Fault.SILENT, Fault.GARBAGE)
HEAD = (
    "$ORIGIN example.\n$TTL 60\n@ SOA ns h ( 1 3600 600 604800 60 )\n@ NS ns\nns A 127.0.0.1\nlegacy MX 10 mx.legacy\n"
)
STUB = (
    "_stub._udp.beta SRV 10 5 2225 post.beta\n",
    "_pks._tcp.beta SRV 10 5 11371 keys.beta\n",
    '_post._tcp.beta TXT "10 5 8080 post.beta.example. post_manager"\n',
)


class World:
    """A gateway's look-ups, on a name server of their own; a new resolver each time, which has nothing cached."""

    def __init__(self, dns: NameServer, threads: ThreadPoolExecutor, memory: Path) -> None:
        self.dns = dns
        self.known = KnownDomains(memory)
        self.policies = Policies(Policy.PREFER)
        self._threads = threads
        keyring = MemoryKeyring(person(BOB), person(BOB).certificate)
        self._account = MemoryAccount(keyring, MemoryResolver(), MemoryStore())

    def find(self, timeout: float = 5.0) -> tuple[Found, Found]:
        """Where mail for bob@beta.example goes, and where for carol@legacy.example."""
        destinations = Destinations(
            Resolver(self.dns.address, timeout=timeout),
            self.known,
            self.policies.of,
            smarthost=True,
            threads=self._threads,
            clock=Clock(),
        )
        found = asyncio.run(destinations.find(self._account, [BOB, CAROL]))
        return found[BOB], found[CAROL]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ThreadPoolExecutor(4) as threads, NameServer([parse_zone(HEAD + "".join(STUB))]) as dns:
        yield World(dns, threads, tmp_path / "domains")


@pytest.mark.parametrize("policy", [Policy.PREFER, Policy.REQUIRE])
@pytest.mark.parametrize("fault", FAULTS)
def test_dns_that_fails_defers_mail_known_domain_or_not(world: World, fault: Fault, policy: Policy) -> None:
    world.policies = Policies(policy)
    for record in RECORDS:
        world.dns.authority.faults = {f"{record}.beta.example": fault, f"{record}.legacy.example": fault}
        for found in world.find(timeout=0.1 if fault in (Fault.SILENT, Fault.GARBAGE) else 5.0):
            assert isinstance(found, TemporaryError)
            assert found.code == "4.4.3"
    assert list(world.known) == []


@pytest.mark.parametrize("gone", range(3))
def test_records_of_which_some_are_gone_defer_mail(world: World, gone: int) -> None:
    world.dns.authority.serve([parse_zone(HEAD + "".join(STUB[:gone] + STUB[gone + 1 :]))])
    found, _ = world.find()
    assert isinstance(found, TemporaryError)
    assert found.code == "4.4.4"
    assert RECORDS[gone] in found.text


def test_records_that_are_gone_altogether_defer_mail_until_the_domain_is_forgotten(world: World) -> None:
    _, legacy = world.find()
    assert legacy is Route.SMARTHOST
    assert "beta.example" in world.known
    world.dns.authority.serve([parse_zone(HEAD)])
    found, _ = world.find()
    assert isinstance(found, TemporaryError)
    assert "stubmail domains forget beta.example" in found.text
    world.known.forget("beta.example")
    assert world.find() == (Route.SMARTHOST, Route.SMARTHOST)


def test_stub_mail_that_is_required_comes_back_when_it_is_absent_for_certain(world: World) -> None:
    world.policies = Policies(Policy.REQUIRE)
    _, legacy = world.find()
    assert isinstance(legacy, PermanentError)
    assert legacy.code == "5.7.1"


def test_who_never_gets_stub_mail_does_not_wait_for_dns(world: World) -> None:
    world.policies = Policies(Policy.NEVER)
    world.dns.authority.faults = dict.fromkeys((f"{record}.beta.example" for record in RECORDS), Fault.SERVFAIL)
    assert world.find() == (Route.SMARTHOST, Route.SMARTHOST)
    assert not world.dns.authority.asked
