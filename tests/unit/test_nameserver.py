"""The test name server: what an authoritative server owes its clients, zone rewriting, and any octets at all."""

import socket

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.testing.authority import Authority
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import ZoneError, parse_zone, rewrite

ZONE = """
$ORIGIN example.
$TTL 300
@ SOA ns hostmaster ( 1 3600 600 604800 60 )
@ NS ns
ns A 203.0.113.53
ns AAAA 2001:db8::53
www CNAME ns
far CNAME ns.invalid.
a.b.c TXT "deep"
*.wild TXT "any"
_stub._udp.alpha SRV 10 5 2225 post.alpha
_post._tcp.alpha TXT "10 5 8080 post.alpha.example. post_manager"
alpha MX 10 smtp.alpha
alpha TXT "v=spf1 -all"
post.alpha A 203.0.113.11
smtp.alpha A 203.0.113.13
"""
AUTHORITY = Authority([parse_zone(ZONE)])


def ask(name: str, kind: str) -> dns.message.Message:
    (wire,) = AUTHORITY.answer(dns.message.make_query(name, kind).to_wire(), tcp=False)
    return dns.message.from_wire(wire)


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "answer"),
    [
        ("ns.example", "A", "NOERROR", ["ns.example. 300 IN A 203.0.113.53"]),
        ("NS.Example", "AAAA", "NOERROR", ["NS.Example. 300 IN AAAA 2001:db8::53"]),
        ("example", "NS", "NOERROR", ["example. 300 IN NS ns.example."]),
        ("alpha.example", "MX", "NOERROR", ["alpha.example. 300 IN MX 10 smtp.alpha.example."]),
        ("www.example", "A", "NOERROR", ["www.example. 300 IN CNAME ns.example.", "ns.example. 300 IN A 203.0.113.53"]),
        ("www.example", "CNAME", "NOERROR", ["www.example. 300 IN CNAME ns.example."]),
        ("far.example", "A", "NOERROR", ["far.example. 300 IN CNAME ns.invalid."]),
        ("x.y.wild.example", "TXT", "NOERROR", ['x.y.wild.example. 300 IN TXT "any"']),
        ("alpha.example", "A", "NOERROR", []),
        ("b.c.example", "TXT", "NOERROR", []),  # a name without records that has others below it
        ("wild.example", "TXT", "NOERROR", []),
        ("x.wild.example", "A", "NOERROR", []),
        ("www.example", "MX", "NOERROR", ["www.example. 300 IN CNAME ns.example."]),
        ("nosuch.example", "A", "NXDOMAIN", []),
        ("x.a.b.c.example", "TXT", "NXDOMAIN", []),
        ("example.org", "A", "REFUSED", []),
    ],
)
def test_answers(name: str, kind: str, rcode: str, answer: list[str]) -> None:
    response = ask(name, kind)
    assert dns.rcode.to_text(response.rcode()) == rcode
    assert [line for rrset in response.answer for line in rrset.to_text().split("\n")] == answer
    assert bool(response.flags & dns.flags.AA) == (rcode != "REFUSED")


@pytest.mark.parametrize(("name", "kind"), [("alpha.example", "A"), ("nosuch.example", "A"), ("www.example", "MX")])
def test_a_denial_carries_the_soa_with_its_minimum(name: str, kind: str) -> None:
    (soa,) = ask(name, kind).authority
    assert (soa.rdtype, soa.ttl) == (dns.rdatatype.SOA, 60)


def test_over_udp_and_tcp() -> None:
    with NameServer([parse_zone(ZONE)]) as server:
        query = dns.message.make_query("ns.example", "A")
        for send in (dns.query.udp, dns.query.tcp):
            response = send(query, server.address[0], port=server.address[1], timeout=5)
            assert response.answer[0].to_text() == "ns.example. 300 IN A 203.0.113.53"
        assert server.authority.asked == {("ns.example", "A", "udp"): 1, ("ns.example", "A", "tcp"): 1}


def test_a_port_in_use_is_an_error() -> None:
    with NameServer([]) as server, pytest.raises(OSError, match="in use"):
        NameServer([], server.address)


def test_a_client_that_hangs_up_does_no_harm() -> None:
    with NameServer([parse_zone(ZONE)]) as server:
        with socket.create_connection(server.address) as client:
            client.sendall(b"\x00")
        query = dns.message.make_query("ns.example", "A")
        assert dns.query.tcp(query, server.address[0], port=server.address[1], timeout=30).answer


@given(st.binary(max_size=80), st.booleans())
def test_any_octets_get_a_message_or_nothing(wire: bytes, tcp: bool) -> None:
    for answer in AUTHORITY.answer(wire, tcp=tcp):
        dns.message.from_wire(answer)


@given(st.binary(max_size=40), st.integers(0, 80))
def test_any_damaged_question_gets_a_message_or_nothing(damage: bytes, at: int) -> None:
    wire = dns.message.make_query("_stub._udp.alpha.example", "SRV", use_edns=0).to_wire()
    for answer in AUTHORITY.answer(wire[:at] + damage + wire[at + len(damage) :], tcp=False):
        dns.message.from_wire(answer)


def test_rewrite_moves_services_and_nothing_else() -> None:
    moved = rewrite(
        ZONE,
        {("post.alpha.example", 2225): ("127.0.0.1", 40001), ("post.alpha.example", 8080): ("127.0.0.1", 40002)},
    )
    before, after = (
        set(parse_zone(text).to_text(relativize=False, want_origin=True).splitlines()) for text in (ZONE, moved)
    )
    assert after - before == {
        "_stub._udp.alpha.example. 300 IN SRV 10 5 40001 post.alpha.example.",
        '_post._tcp.alpha.example. 300 IN TXT "10 5 40002 post.alpha.example. post_manager"',
        "post.alpha.example. 300 IN A 127.0.0.1",
    }
    assert len(before - after) == 3


def test_rewrite_refuses_a_host_at_two_addresses() -> None:
    with pytest.raises(ZoneError, match=r"post\.alpha\.example cannot be at"):
        rewrite(ZONE, {("post.alpha.example", 1): ("127.0.0.1", 1), ("post.alpha.example", 2): ("127.0.0.2", 2)})


@pytest.mark.parametrize("text", ["", "no zone at all", "$ORIGIN example.\n@ 60 A 1.2.3.4\n"])
def test_what_is_no_zone(text: str) -> None:
    with pytest.raises(ZoneError):
        parse_zone(text)
