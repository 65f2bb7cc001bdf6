"""Discovery against a real name server on loopback: offers, absence, every kind of failure, caching, addresses."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stubmail.discovery import MAX_ADDRESSES, Resolver, Store, Target
from stubmail.dns.addresses import is_allowed
from stubmail.dns.cache import TtlCache
from stubmail.errors import PermanentError, TemporaryError
from stubmail.settings import ConfigError
from stubmail.testing.authority import Fault
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone

ZONE = """
$ORIGIN example.
$TTL 300
@ SOA ns hostmaster ( 1 3600 600 604800 60 )
@ NS ns
ns A 203.0.113.53
_stub._udp.good 100 SRV 10 5 2225 post.good
_pks._tcp.good 200 SRV 10 5 11371 keys.good
_post._tcp.good TXT "10 5 8080 post.good." "example. post_manager"
post.good A 203.0.113.11
post.good AAAA 2001:db8::11
keys.good 30 A 127.0.0.1

_stub._udp.alias CNAME _stub._udp.good
_pks._tcp.alias CNAME _pks._tcp.good
_post._tcp.alias CNAME _post._tcp.good
_stub._udp.dangling CNAME nowhere
_pks._tcp.elsewhere CNAME other.invalid.
legacy MX 10 mx.legacy
*.wild TXT "v=spf1 -all"
_stub._udp.half SRV 10 5 2225 post.good
_stub._udp.quiet SRV 0 0 0 .
_pks._tcp.quiet SRV 10 5 11371 keys.good
_post._tcp.quiet TXT "10 5 443 post.good.example p"

_stub._udp.many SRV 10 5 2225 post.good
_pks._tcp.many SRV 20 0 11371 second.many
_pks._tcp.many SRV 10 0 11371 first.many
_post._tcp.many TXT "30 0 80 c.many.example p"
_post._tcp.many TXT "10 0 80 a.many.example p"
_post._tcp.many TXT "20 0 80 b.many.example p"

loop CNAME pool
pool CNAME loop
public A 192.0.43.8
public A 10.0.0.1
public AAAA 2620:0:2d0:200::8
public AAAA ::1
inside A 10.0.0.1
inside AAAA ::ffff:10.0.0.1
mail MX 10 public
"""
LARGE = "".join(f'_post._tcp.good TXT "10 5 8080 host{n}.{"x" * 60}.good.example. post_manager"\n' for n in range(20))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def running() -> Iterator[NameServer]:
    with NameServer([parse_zone(ZONE)]) as server:
        yield server


@pytest.fixture
def server(running: NameServer) -> Iterator[NameServer]:
    running.authority.serve([parse_zone(ZONE)])
    running.authority.asked.clear()
    yield running
    running.authority.faults.clear()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver(server: NameServer, clock: Clock) -> Resolver:
    return Resolver(server.address, timeout=10, allow_private=True, clock=clock, rng=random.Random(1))


def asked(server: NameServer, name: str) -> int:
    return sum(count for (asked_name, _, _), count in server.authority.asked.items() if asked_name == name)


def test_a_domain_with_all_three_records(resolver: Resolver) -> None:
    offer = resolver.discover("Good.Example.")
    assert offer is not None
    assert offer.domain == "good.example"
    assert offer.checks == (Target("post.good.example", 2225),)
    assert offer.keyservers == (Target("keys.good.example", 11371),)
    assert offer.stores == (Store("post.good.example", 8080, "post_manager"),)


def test_aliases_are_followed(resolver: Resolver) -> None:
    offer, good = resolver.discover("alias.example"), resolver.discover("good.example")
    assert offer is not None and good is not None and offer.stores == good.stores


def test_several_records_in_their_order(resolver: Resolver) -> None:
    offer = resolver.discover("many.example")
    assert offer is not None
    assert [target.host for target in offer.keyservers] == ["first.many.example", "second.many.example"]
    assert [store.host[0] for store in offer.stores] == ["a", "b", "c"]


@pytest.mark.parametrize("domain", ["legacy.example", "nosuch.example", "wild.example", "dangling.example"])
def test_absent(resolver: Resolver, domain: str) -> None:
    assert resolver.discover(domain) is None


def test_the_udp_check_may_be_declined(resolver: Resolver) -> None:
    offer = resolver.discover("quiet.example")
    assert offer is not None and offer.checks == () and offer.stores[0].url == "https://post.good.example/p"


def test_half_an_offer_is_a_failure(resolver: Resolver) -> None:
    with pytest.raises(TemporaryError, match=r"_pks\._tcp\.half\.example is missing.*_post\._tcp") as caught:
        resolver.discover("half.example")
    assert caught.value.code == "4.4.4"


@pytest.mark.parametrize(
    "fault", [Fault.SERVFAIL, Fault.BOGUS, Fault.REFUSED, Fault.REFERRAL, Fault.SILENT, Fault.GARBAGE]
)
@pytest.mark.parametrize("record", ["_stub._udp", "_pks._tcp", "_post._tcp"])
def test_a_failure_is_never_taken_for_absence(
    server: NameServer, resolver: Resolver, record: str, fault: Fault
) -> None:
    server.authority.faults[f"{record}.legacy.example"] = fault
    impatient = Resolver(server.address, timeout=0.1)
    with pytest.raises(TemporaryError) as caught:
        (impatient if fault in (Fault.SILENT, Fault.GARBAGE) else resolver).discover("legacy.example")
    assert caught.value.code == "4.4.3"
    server.authority.faults.clear()
    assert resolver.discover("legacy.example") is None  # failures are not remembered


def test_a_failure_says_what_it_was(server: NameServer, resolver: Resolver) -> None:
    server.authority.faults["_stub._udp.good.example"] = Fault.SERVFAIL
    with pytest.raises(TemporaryError, match=r"SERVFAIL asking for _stub\._udp\.good\.example"):
        resolver.discover("good.example")
    server.authority.faults["_stub._udp.good.example"] = Fault.BOGUS
    with pytest.raises(TemporaryError, match=r"SERVFAIL \(DNSSEC_BOGUS\) asking for"):
        resolver.discover("good.example")


def test_nobody_listens() -> None:
    with NameServer([]) as server:
        address = server.address
    with pytest.raises(TemporaryError):
        Resolver(address, timeout=0.3).discover("good.example")


def test_a_zone_that_is_not_served_and_an_alias_that_leads_out_of_it(server: NameServer, resolver: Resolver) -> None:
    for domain in ("good.invalid", "elsewhere.example"):
        with pytest.raises(TemporaryError) as caught:
            resolver.discover(domain)
        assert caught.value.code == "4.4.3"


def test_a_forged_answer_is_ignored(server: NameServer, resolver: Resolver) -> None:
    for record in ("_stub._udp", "_pks._tcp", "_post._tcp"):
        server.authority.faults[f"{record}.good.example"] = Fault.FORGED
    assert resolver.discover("good.example") is not None


def test_a_truncated_answer_is_asked_for_again_over_tcp(server: NameServer, resolver: Resolver) -> None:
    server.authority.faults["_stub._udp.good.example"] = Fault.TRUNCATED
    assert resolver.discover("good.example") is not None
    assert server.authority.asked["_stub._udp.good.example", "SRV", "tcp"] == 1


def test_an_answer_too_large_for_udp(server: NameServer, resolver: Resolver) -> None:
    server.authority.serve([parse_zone(ZONE + LARGE)])
    offer = resolver.discover("good.example")
    assert offer is not None and len(offer.stores) == 21
    assert server.authority.asked["_post._tcp.good.example", "TXT", "tcp"] == 1


def test_each_answer_is_kept_as_long_as_its_ttl(server: NameServer, resolver: Resolver, clock: Clock) -> None:
    for now, stub, pks, post in [(0, 1, 1, 1), (99, 1, 1, 1), (101, 2, 1, 1), (200, 2, 2, 1), (301, 3, 2, 2)]:
        clock.now = 1000.0 + now
        resolver.discover("good.example")
        found = [asked(server, f"{name}.good.example") for name in ("_stub._udp", "_pks._tcp", "_post._tcp")]
        assert found == [stub, pks, post], now


def test_absence_is_kept_as_long_as_the_soa_says(server: NameServer, resolver: Resolver, clock: Clock) -> None:
    for now, times in [(0, 1), (59, 1), (60, 2)]:
        clock.now = 1000.0 + now
        assert resolver.discover("legacy.example") is None
        assert asked(server, "_stub._udp.legacy.example") == times


def test_a_domain_that_joins_is_seen_when_its_absence_expires(
    server: NameServer, resolver: Resolver, clock: Clock
) -> None:
    assert resolver.discover("new.example") is None
    server.authority.serve([parse_zone(ZONE.replace("good", "new"))])
    assert resolver.discover("new.example") is None
    clock.now += 60
    assert resolver.discover("new.example") is not None


def test_flush_forgets(server: NameServer, resolver: Resolver) -> None:
    resolver.discover("good.example")
    resolver.flush()
    resolver.discover("good.example")
    assert asked(server, "_stub._udp.good.example") == 2


def test_a_full_cache_forgets_what_was_used_least_recently(clock: Clock) -> None:
    cache: TtlCache[str, int] = TtlCache(2, clock)
    cache.put("a", 1, 10)
    cache.put("b", 2, 10)
    assert cache.get("a") == 1
    cache.put("c", 3, 10)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


def test_threads_share_a_resolver(resolver: Resolver) -> None:
    with ThreadPoolExecutor(16) as pool:
        offers = list(pool.map(lambda _: resolver.discover("good.example"), range(200)))
    assert len(offers) == 200 and all(offer == offers[0] and offer is not None for offer in offers)


@pytest.mark.parametrize("domain", ["", "[203.0.113.1]", "a..b", "a b.example", "x" * 64 + ".example"])
def test_what_is_no_domain(resolver: Resolver, domain: str) -> None:
    with pytest.raises(PermanentError) as caught:
        resolver.discover(domain)
    assert caught.value.code == "5.1.2"


def test_a_domain_too_long_for_the_records_has_none(resolver: Resolver) -> None:
    assert resolver.discover(".".join(["x" * 60] * 4) + ".example") is None


def test_addresses_of_both_families(resolver: Resolver) -> None:
    assert resolver.addresses("post.good.example") == ["203.0.113.11", "2001:db8::11"]
    assert resolver.addresses("127.0.0.1") == ["127.0.0.1"]


def test_addresses_that_a_stranger_must_not_lead_us_to(server: NameServer) -> None:
    resolver = Resolver(server.address)
    assert resolver.addresses("public.example") == ["192.0.43.8", "2620:0:2d0:200::8"]
    for host in ("inside.example", "keys.good.example", "127.0.0.1", "::1"):
        with pytest.raises(TemporaryError, match="must not be used") as caught:
            resolver.addresses(host)
        assert caught.value.code == "4.4.4"


def test_a_host_with_a_flood_of_addresses(server: NameServer, resolver: Resolver) -> None:
    flood = "".join(f"flood A 203.0.113.{n}\n" for n in range(1, 200))
    server.authority.serve([parse_zone(ZONE + flood)])
    assert len(resolver.addresses("flood.example")) == MAX_ADDRESSES


@pytest.mark.parametrize("host", ["nosuch.example", "mail.example", "a b"])
def test_no_address(resolver: Resolver, host: str) -> None:
    with pytest.raises(TemporaryError) as caught:
        resolver.addresses(host)
    assert caught.value.code == "4.4.4"


@pytest.mark.parametrize("host", ["loop.example", "failing.example"])
def test_addresses_fail(server: NameServer, resolver: Resolver, host: str) -> None:
    server.authority.faults["failing.example"] = Fault.SERVFAIL
    with pytest.raises(TemporaryError) as caught:
        resolver.addresses(host)
    assert caught.value.code == "4.4.3"


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("192.0.43.8", True, True),
        ("127.0.0.1", False, True),
        ("10.1.2.3", False, True),
        ("203.0.113.1", False, True),
        ("100.64.0.1", False, True),
        ("240.0.0.1", False, True),
        ("0.0.0.0", False, False),
        ("255.255.255.255", False, False),
        ("169.254.169.254", False, False),
        ("224.0.0.1", False, False),
        ("::", False, False),
        ("::1", False, True),
        ("fe80::1", False, False),
        ("fd00::1", False, True),
        ("ff02::1", False, False),
        ("::ffff:127.0.0.1", False, True),
        ("::ffff:169.254.169.254", False, False),
        ("2002:7f00:1::", False, True),
        ("64:ff9b::7f00:1", False, True),
        ("64:ff9b::c000:2b08", True, True),
        ("2620:0:2d0:200::8", True, True),
    ],
)
def test_allowed_addresses(address: str, public: bool, private: bool) -> None:
    assert (is_allowed(address, False), is_allowed(address, True)) == (public, private)


def test_resolver_must_be_an_address() -> None:
    with pytest.raises(ConfigError, match="must be an IP address"):
        Resolver(("dns.example", 53))


def test_the_example_zone_offers_what_it_says() -> None:
    zone = parse_zone((Path(__file__).parents[2] / "dns/zone.example").read_text())
    with NameServer([zone]) as server:
        resolver = Resolver(server.address, allow_private=True)
        assert resolver.discover("legacy.example") is None
        for domain in ("alpha.example", "beta.example"):
            offer = resolver.discover(domain)
            assert offer is not None
            for target in (*offer.checks, *offer.keyservers, *offer.stores):
                assert resolver.addresses(target.host)[0].startswith("203.0.113.")


def test_hosts_of_our_own_configuration_may_have_any_address_and_no_others(server: NameServer) -> None:
    resolver = Resolver(server.address)
    with pytest.raises(TemporaryError, match="must not be used"):
        resolver.addresses("127.0.0.1")
    assert resolver.for_configured_hosts().addresses("127.0.0.1") == ["127.0.0.1"]
    with pytest.raises(TemporaryError, match="must not be used"):
        resolver.addresses("127.0.0.1")
