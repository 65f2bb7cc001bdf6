"""One model renders what to publish, checks what is published, and agrees with the example zone."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stubmail.datagram import Check, unknown_to_wire
from stubmail.discovery import Resolver
from stubmail.dns.checker import Report, Status, check
from stubmail.dns.publication import Service, entries, format_table, format_zone, to_json
from stubmail.dns.reach import reach
from stubmail.dns.records import RecordError
from stubmail.testing.authority import Fault
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone, rewrite
from tests.support.ports import LOOPBACK, free_port

EXAMPLE = (Path(__file__).parents[2] / "dns/zone.example").read_text()
HEAD = "$ORIGIN example.\n$TTL 60\n@ SOA ns hostmaster ( 1 3600 600 604800 60 )\n@ NS ns\nns A 203.0.113.53\n"
SERVICE = Service("post.new.example", "keys.new.example", "post.new.example", 8080, 11371, 2225, "cgi-bin/post_manager")
HOSTS = "post.new A 203.0.113.1\nkeys.new A 203.0.113.2\n"


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer([parse_zone(EXAMPLE)]) as server:
        yield server


@pytest.fixture
def resolver(server: NameServer) -> Resolver:
    return Resolver(server.address, allow_private=True)


def publish(server: NameServer, text: str) -> None:
    server.authority.serve([parse_zone(HEAD + text)])


def statuses(report: Report) -> dict[str, str]:
    return {finding.name.removesuffix(f".{report.domain}"): str(finding.status) for finding in report.records}


@pytest.mark.parametrize("domain", ["alpha.example", "beta.example"])
def test_the_example_zone_is_what_the_model_renders(domain: str) -> None:
    service = Service(f"post.{domain}", f"keys.{domain}", f"post.{domain}", store_port=8080)
    lines = parse_zone(EXAMPLE).to_text(relativize=False, want_origin=True).splitlines()
    published = {line.replace(" 300 IN ", " ") for line in lines if line.startswith("_") and f".{domain}. " in line}
    assert {entry.format() for entry in entries(domain, service)} == published


def test_what_is_rendered_is_found_right(server: NameServer, resolver: Resolver) -> None:
    publish(server, format_zone(entries("new.example", SERVICE)) + HOSTS)
    for service in (SERVICE, None):
        report = check(resolver, "new.example", service)
        assert report.status is Status.OK, report
    assert [host.addresses for host in report.hosts] == [("203.0.113.1",), ("203.0.113.2",)]
    offer = resolver.discover("new.example")
    assert offer is not None
    assert offer.stores[0].url == "http://post.new.example:8080/cgi-bin/post_manager"


def test_without_udp(server: NameServer, resolver: Resolver) -> None:
    silent = Service("post.new.example", "keys.new.example", "")
    publish(server, format_zone(entries("new.example", silent)) + HOSTS)
    assert check(resolver, "new.example", silent).status is Status.OK
    assert check(resolver, "new.example").status is Status.OK
    assert statuses(check(resolver, "new.example", SERVICE))["_stub._udp"] == "wrong"
    offer = resolver.discover("new.example")
    assert offer is not None and offer.checks == ()


def test_a_table_has_a_row_for_each_entry() -> None:
    published = entries("new.example", SERVICE)
    rows = format_table(published).splitlines()
    assert rows[0].split() == ["NAME", "TYPE", "DATA"]
    assert [row.split()[0] for row in rows[1:]] == [entry.name for entry in published]
    assert rows[3].endswith('TXT   "10 5 8080 post.new.example. cgi-bin/post_manager"')


def test_json_has_data_and_fields() -> None:
    store = json.loads(json.dumps(to_json(entries("new.example", SERVICE))))[2]
    assert (store["name"], store["type"]) == ("_post._tcp.new.example", "TXT")
    assert store["fields"]["prefix"] == "cgi-bin/post_manager" and store["fields"]["port"] == 8080


@pytest.mark.parametrize("field", ["store_host", "keys_host", "check_host"])
@pytest.mark.parametrize("host", ["203.0.113.1", "a b", "é.example", "x..y"])
def test_what_no_client_would_accept_is_not_rendered(field: str, host: str) -> None:
    values = {"store_host": "a.example", "keys_host": "a.example", "check_host": "a.example"} | {field: host}
    with pytest.raises(RecordError):
        entries("new.example", Service(**values))


def test_a_domain_without_anything(resolver: Resolver) -> None:
    report = check(resolver, "legacy.example")
    assert report.status is Status.MISSING and set(statuses(report).values()) == {"missing"}
    proposed = [finding.publish.format() for finding in report.records if finding.publish]
    assert proposed[1] == "_pks._tcp.legacy.example. SRV 10 5 11371 keys.legacy.example."


def test_what_is_proposed_goes_with_what_is_there(server: NameServer, resolver: Resolver) -> None:
    publish(server, '_post._tcp.new TXT "10 5 8080 www.new.example. p"\nwww.new A 203.0.113.1\n')
    report = check(resolver, "new.example")
    assert statuses(report) == {
        "_stub._udp": "missing",
        "_pks._tcp": "missing",
        "_post._tcp": "ok",
        "_pgpkey-http._tcp": "missing",
    }
    assert report.records[0].publish is not None
    assert report.records[0].publish.format() == "_stub._udp.new.example. SRV 10 5 2225 www.new.example."


@pytest.mark.parametrize(
    ("old", "new", "name", "status", "note"),
    [
        ("SRV 10 5 2225", "SRV 10 5 0", "_stub._udp", "wrong", "not a port"),
        ('"10 5 8080', '"10 5', "_post._tcp", "wrong", "five fields"),
        (
            "_pks._tcp.new.example. SRV 10 5 11371 keys.new.example.",
            "_pks._tcp.new SRV 0 0 0 .",
            "_pks._tcp",
            "wrong",
            "not",
        ),
        (
            "_pgpkey-http._tcp.new.example. SRV 10 5 11371",
            "_pgpkey-http._tcp.new SRV 10 5 80",
            "_pgpkey-http._tcp",
            "wrong",
            "differs from _pks._tcp",
        ),
        ("_pgpkey-http", "_elsewhere", "_pgpkey-http._tcp", "missing", "plain GnuPG"),
    ],
)
def test_what_is_wrong_is_named(
    server: NameServer, resolver: Resolver, old: str, new: str, name: str, status: str, note: str
) -> None:
    text = format_zone(entries("new.example", SERVICE)) + HOSTS
    assert old in text
    publish(server, text.replace(old, new))
    report = check(resolver, "new.example")
    assert statuses(report)[name] == status
    (finding,) = (finding for finding in report.records if finding.name == f"{name}.new.example")
    assert note in finding.note and finding.publish is not None


def test_records_that_lead_to_another_host(server: NameServer, resolver: Resolver) -> None:
    publish(server, format_zone(entries("new.example", SERVICE)) + HOSTS)
    other = Service("other.example", "keys.new.example", "post.new.example", 8080, prefix="cgi-bin/post_manager")
    report = check(resolver, "new.example", other)
    assert statuses(report) == {
        "_stub._udp": "ok",
        "_pks._tcp": "ok",
        "_post._tcp": "wrong",
        "_pgpkey-http._tcp": "ok",
    }


def test_a_malformed_record_beside_a_good_one_is_mentioned(server: NameServer, resolver: Resolver) -> None:
    publish(server, format_zone(entries("new.example", SERVICE)) + HOSTS + '_post._tcp.new TXT "10 5 80"\n')
    finding = check(resolver, "new.example").records[2]
    assert finding.status is Status.OK and "malformed" in finding.note


def test_hosts_without_usable_addresses(server: NameServer) -> None:
    publish(server, format_zone(entries("new.example", SERVICE)) + "keys.new A 10.0.0.1\n")
    report = check(Resolver(server.address), "new.example")
    assert {host.host: (host.status, host.addresses) for host in report.hosts} == {
        "post.new.example": (Status.WRONG, ()),
        "keys.new.example": (Status.WRONG, ()),
    }


def test_no_answer_is_not_taken_for_anything(server: NameServer, resolver: Resolver) -> None:
    server.authority.faults["_pks._tcp.alpha.example"] = Fault.SERVFAIL
    server.authority.faults["post.alpha.example"] = Fault.SERVFAIL
    report = check(resolver, "alpha.example")
    assert report.status is Status.FAILED
    assert statuses(report)["_pks._tcp"] == "failed" and statuses(report)["_post._tcp"] == "ok"
    assert [host.status for host in report.hosts] == [Status.FAILED, Status.OK]


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[tuple[str, int]]:
    """A UDP port that answers one datagram."""

    def serve() -> None:
        data, peer = udp.recvfrom(1000)
        udp.sendto(answer(data), peer)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(10)
        udp.bind((LOOPBACK, 0))
        thread = threading.Thread(target=serve)
        thread.start()
        yield udp.getsockname()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda check: unknown_to_wire(Check.from_wire(check).nonce), ""),
        (lambda check: b"hello", "answers, but not as a store does"),
    ],
)
def test_reaching_the_services(server: NameServer, answer: Callable[[bytes], bytes], problem: str) -> None:
    with answering(answer) as udp, NameServer([]) as any_tcp:
        places = {
            ("post.alpha.example", 2225): udp,
            ("post.alpha.example", 8080): (LOOPBACK, free_port()),
            ("keys.alpha.example", 11371): any_tcp.address,
        }
        server.authority.serve([parse_zone(rewrite(EXAMPLE, places))])
        resolver = Resolver(server.address, allow_private=True)
        offer = resolver.discover("alpha.example")
        assert offer is not None
        results = {result.what: result.problem for result in reach(resolver, offer)}
    assert results == {"UDP check": problem, "key server": "", "store": "Connection refused"}
