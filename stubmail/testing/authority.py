"""An authoritative name server without its sockets: a query's octets in, the answer's octets out, faults on demand."""

import enum
import threading
from collections import Counter
from collections.abc import Iterable, Mapping

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.zone
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.SOA import SOA

MAX_CHAIN = 8
PAYLOAD = 1232  # octets of the largest UDP answer


class Fault(enum.Enum):
    """What to do wrong when asked for a name."""

    SERVFAIL = "servfail"
    BOGUS = "bogus"  # SERVFAIL as a validating resolver gives it for wrong signatures (RFC 4035 §5.5, RFC 8914)
    REFUSED = "refused"
    REFERRAL = "referral"  # to name servers that do not exist, without a word on the question
    SILENT = "silent"
    TRUNCATED = "truncated"  # TC over UDP, the whole answer over TCP
    GARBAGE = "garbage"  # octets that are no DNS message
    FORGED = "forged"  # an answer with a wrong id that says "no such name", then the true one


class Authority:
    """Answers for its zones, and refuses all other names; may be used by several threads.

    ``faults`` says what to do wrong, by name (lower case, no final dot), whatever the type asked for; ``asked`` counts
    the questions: (such a name, type as text, "udp" or "tcp").
    """

    def __init__(self, zones: Iterable[dns.zone.Zone]) -> None:
        self._lock = threading.Lock()
        self.faults: dict[str, Fault] = {}
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.serve(zones)

    def serve(self, zones: Iterable[dns.zone.Zone]) -> None:
        """Serve these zones from now on, in place of the earlier ones."""
        zones = list(zones)
        with self._lock:
            self._zones = {zone.origin: zone for zone in zones if zone.origin is not None}

    def answer(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        """Return the messages to send back, none when there is nothing to say."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError):
            return []
        if query.flags & dns.flags.QR:
            return []
        response = dns.message.make_response(query, our_payload=PAYLOAD)
        if query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
        elif len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)
        else:
            return self._answer_question(query, response, tcp)
        return [response.to_wire()]

    def _answer_question(self, query: dns.message.Message, response: dns.message.Message, tcp: bool) -> list[bytes]:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        with self._lock:
            self.asked[name, dns.rdatatype.to_text(question.rdtype), "tcp" if tcp else "udp"] += 1
            fault = self.faults.get(name)
            zones = self._zones
        if fault is Fault.SILENT:
            return []
        if fault is Fault.GARBAGE:
            return [b"\xff" * 5]
        fill(response, zones)
        if fault is Fault.SERVFAIL or fault is Fault.REFUSED:
            _empty(response, dns.rcode.SERVFAIL if fault is Fault.SERVFAIL else dns.rcode.REFUSED)
        if fault is Fault.BOGUS:
            _empty(response, dns.rcode.SERVFAIL)
            response.use_edns(0, payload=PAYLOAD, options=[dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS)])
        if fault is Fault.REFERRAL:
            _empty(response, dns.rcode.NOERROR)
            response.flags &= ~dns.flags.AA
            response.authority.append(dns.rrset.from_text(question.name, 60, "IN", "NS", "ns.invalid."))
        if fault is Fault.TRUNCATED and not tcp:
            _empty(response, dns.rcode.NOERROR)
            response.flags |= dns.flags.TC
        size = 65535 if tcp else max(512, min(query.payload, PAYLOAD))
        wires = [response.to_wire(max_size=size, prefer_truncation=True)]
        if fault is Fault.FORGED and not tcp:
            _empty(response, dns.rcode.NXDOMAIN)
            response.id ^= 0xFFFF
            wires.insert(0, response.to_wire())
        return wires


def fill(response: dns.message.Message, zones: Mapping[dns.name.Name, dns.zone.Zone]) -> None:
    """Put in what the zones know: the records, a CNAME and what it leads to, or the SOA that goes with absence."""
    question = response.question[0]
    name = question.name
    for _ in range(MAX_CHAIN):
        zone = _zone_of(name, zones)
        if zone is None or question.rdclass != zone.rdclass:
            if not response.answer:
                response.set_rcode(dns.rcode.REFUSED)
            return
        response.flags |= dns.flags.AA
        sets = _sets_at(zone, name)
        found = sets.get(question.rdtype) if sets else None
        alias = sets.get(dns.rdatatype.CNAME) if sets and not found else None
        for rdataset in filter(None, (found, alias)):
            response.answer.append(dns.rrset.from_rdata_list(name, rdataset.ttl, list(rdataset)))
        if alias:
            target = alias[0]
            assert isinstance(target, CNAME)
            name = target.target
            continue
        if not found:
            response.authority.append(_denial(zone))
            response.set_rcode(dns.rcode.NXDOMAIN if sets is None else dns.rcode.NOERROR)
        return


def _zone_of(name: dns.name.Name, zones: Mapping[dns.name.Name, dns.zone.Zone]) -> dns.zone.Zone | None:
    origins = [origin for origin in zones if name.is_subdomain(origin)]
    return zones[max(origins, key=len)] if origins else None


def _sets_at(zone: dns.zone.Zone, name: dns.name.Name) -> dict[RdataType, dns.rdataset.Rdataset] | None:
    """Return the record sets at a name, or None when the name does not exist, wildcards considered (RFC 4592 §3.3)."""
    node = zone.get_node(name)
    encloser = name
    while node is None and not any(other.is_subdomain(encloser) for other in zone):
        encloser = encloser.parent()
        if any(other.is_subdomain(encloser) for other in zone):
            node = zone.get_node(dns.name.Name(("*", *encloser.labels)))
            if node is None:
                return None
    # A name without records that has names below it exists: "no such data", not "no such name" (RFC 8020).
    return {rdataset.rdtype: rdataset for rdataset in node} if node is not None else {}


def _denial(zone: dns.zone.Zone) -> dns.rrset.RRset:
    """Return the zone's SOA as it accompanies a negative answer: its TTL is how long to believe it (RFC 2308 §3)."""
    assert zone.origin is not None
    rdataset = zone.find_rdataset(zone.origin, dns.rdatatype.SOA)
    soa = rdataset[0]
    assert isinstance(soa, SOA)
    return dns.rrset.from_rdata(zone.origin, min(rdataset.ttl, soa.minimum), soa)


def _empty(response: dns.message.Message, rcode: dns.rcode.Rcode) -> None:
    response.answer.clear()
    response.authority.clear()
    response.set_rcode(rcode)
