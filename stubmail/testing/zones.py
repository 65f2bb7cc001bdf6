"""Zone data for tests: read from a zone file, and rewritten so that its services answer on loopback at other ports."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path

import dns.exception
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.zone
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.SRV import SRV

from stubmail.dns.records import PostRecord, RecordError, parse_post

Place = tuple[str, int]  # host name or address, and port


class ZoneError(ValueError):
    """The text is not a zone that can be served; the message says why."""


def parse_zone(text: str, origin: str | None = None) -> dns.zone.Zone:
    """Parse a zone file; without ``origin`` its first $ORIGIN counts. Raises ZoneError."""
    try:
        zone = dns.zone.from_text(text, origin=origin, relativize=False, allow_include=False, check_origin=False)
        if zone.origin is None:
            raise ZoneError("the zone has no origin")
        zone.check_origin()
    except (dns.exception.DNSException, ValueError, KeyError) as error:
        raise ZoneError(f"not a zone: {error or type(error).__name__}") from error
    return zone


def load_zone(path: Path) -> dns.zone.Zone:
    """Read and parse a zone file. Raises OSError and ZoneError."""
    return parse_zone(path.read_text())


def rewrite(text: str, places: Mapping[Place, Place]) -> str:
    """Return a zone's text with services moved: ``places`` maps (host name, port) to (IP address, port).

    The host's A or AAAA record gets the address, every SRV and ``_post._tcp`` TXT record that names host and port
    gets the new port; all else stays. A host whose services would need two addresses raises ZoneError.
    """
    zone = parse_zone(text)
    hosts = _addresses(places)
    for name, rdataset in list(zone.iterate_rdatasets()):
        host = name.to_text(omit_final_dot=True).lower()
        if rdataset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA) and host in hosts:
            zone.delete_rdataset(name, rdataset.rdtype)
            zone.replace_rdataset(name, _address(rdataset.ttl, hosts[host]))
        elif rdataset.rdtype in (dns.rdatatype.SRV, dns.rdatatype.TXT):
            moved = [_moved(record, places) for record in rdataset]
            zone.replace_rdataset(name, dns.rdataset.from_rdata_list(rdataset.ttl, moved))
    return zone.to_text(relativize=False, want_origin=True)


def _addresses(places: Mapping[Place, Place]) -> dict[str, str]:
    hosts: dict[str, str] = {}
    for (host, _), (address, _) in places.items():
        if hosts.setdefault(host.lower(), address) != address:
            raise ZoneError(f"{host} cannot be at {hosts[host.lower()]} and at {address}")
    return hosts


def _address(ttl: int, address: str) -> dns.rdataset.Rdataset:
    rdtype = dns.rdatatype.A if ipaddress.ip_address(address).version == 4 else dns.rdatatype.AAAA
    return dns.rdataset.from_text(dns.rdataclass.IN, rdtype, ttl, address)


def _moved(record: dns.rdata.Rdata, places: Mapping[Place, Place]) -> dns.rdata.Rdata:
    if isinstance(record, SRV):
        host = record.target.to_text(omit_final_dot=True).lower()
        return record.replace(port=places.get((host, record.port), ("", record.port))[1])
    if isinstance(record, TXT):
        try:
            post = parse_post(record.strings)
        except RecordError:
            return record  # some other protocol's
        port = places.get((post.host, post.port), ("", post.port))[1]
        moved = PostRecord(post.priority, post.weight, port, post.host, post.prefix)
        return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, moved.format())
    return record
