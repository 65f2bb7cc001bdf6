"""Compares what a domain publishes with what it should: what is missing or wrong, and what to publish instead."""

from dataclasses import dataclass, replace
from enum import StrEnum

from stubmail.discovery import Resolver
from stubmail.dns.offer import Found
from stubmail.dns.publication import PREFIX, Entry, Service, entries
from stubmail.dns.records import CHECK_NAME, GNUPG_NAME, KEYS_NAME, STORE_NAME, PostRecord, SrvRecord
from stubmail.errors import TemporaryError


class Status(StrEnum):
    """What became of one check."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    FAILED = "failed"  # DNS did not answer: nothing is known


@dataclass(frozen=True, slots=True)
class RecordFinding:
    """One name: what stands there, what is the matter with it, and the entry to publish when something is."""

    name: str
    kind: str
    status: Status
    found: tuple[str, ...]
    note: str
    publish: Entry | None


@dataclass(frozen=True, slots=True)
class HostFinding:
    """One host that the records name: its addresses, or why it has none that may be used."""

    host: str
    status: Status
    addresses: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one domain."""

    domain: str
    records: tuple[RecordFinding, ...]
    hosts: tuple[HostFinding, ...]

    @property
    def status(self) -> Status:
        """The worst of all: what DNS did not tell may be worse than anything it told."""
        found = {finding.status for finding in self.records} | {finding.status for finding in self.hosts}
        order = (Status.FAILED, Status.WRONG, Status.MISSING)
        return next((status for status in order if status in found), Status.OK)


def check(resolver: Resolver, domain: str, service: Service | None = None) -> Report:
    """Check a domain (canonical); with ``service`` its records have to lead where those that ``entries`` gives do.

    Without it any usable records are right, and what is missing is proposed with the hosts of those that are there.
    """
    published = {name: _ask(resolver, name, domain) for name in (CHECK_NAME, KEYS_NAME, STORE_NAME, GNUPG_NAME)}
    wanted = entries(domain, service or _proposal(domain, published))
    records = tuple(_judge(entry, published, exact=service is not None) for entry in wanted)
    hosts = {record.host: None for answer in published.values() for record in _records(answer)}
    return Report(domain, records, tuple(_host(resolver, host) for host in hosts))


_Answer = Found[SrvRecord] | Found[PostRecord] | TemporaryError


def _ask(resolver: Resolver, name: str, domain: str) -> _Answer:
    try:
        return resolver.posts(domain) if name == STORE_NAME else resolver.srv(name, domain)
    except TemporaryError as error:
        return error


def _records(answer: _Answer) -> tuple[SrvRecord | PostRecord, ...]:
    return () if isinstance(answer, TemporaryError) else answer.records


def _proposal(domain: str, published: dict[str, _Answer]) -> Service:
    """Take hosts and ports from the records that are there, and the usual ones for the rest."""
    service = Service(f"post.{domain}", f"keys.{domain}", f"post.{domain}")
    for record in _records(published[STORE_NAME])[:1]:
        prefix = record.prefix if isinstance(record, PostRecord) else PREFIX
        service = replace(service, store_host=record.host, store_port=record.port, prefix=prefix)
        service = replace(service, check_host=record.host)  # one program answers both, as a rule
    for record in _records(published[KEYS_NAME])[:1]:
        service = replace(service, keys_host=record.host, keys_port=record.port)
    for record in _records(published[CHECK_NAME])[:1]:
        service = replace(service, check_host=record.host, check_port=record.port)
    return service


def _judge(entry: Entry, published: dict[str, _Answer], *, exact: bool) -> RecordFinding:
    name = entry.name.split(".", 2)
    answer = published[f"{name[0]}.{name[1]}"]
    texts = tuple(record.format() for record in _records(answer))
    if isinstance(answer, TemporaryError):
        return RecordFinding(entry.name, entry.kind, Status.FAILED, texts, answer.text, None)
    status, note = _verdict(entry, answer, exact)
    if status is Status.OK and answer is published[GNUPG_NAME] and not _same_targets(answer, published[KEYS_NAME]):
        status, note = Status.WRONG, f"differs from {KEYS_NAME}"
    return RecordFinding(entry.name, entry.kind, status, texts, note, None if status is Status.OK else entry)


def _verdict(entry: Entry, found: Found[SrvRecord] | Found[PostRecord], exact: bool) -> tuple[Status, str]:
    declined = entry.name.startswith(CHECK_NAME) and found.not_offered
    if declined and not (exact and entry.record.host):
        return Status.OK, "not offered: recipients ask over HTTP alone"
    if found.absent:
        return Status.MISSING, entry.purpose
    if not found.records:
        return Status.WRONG, found.fault
    if exact and entry.record.target not in [record.target for record in found.records]:
        return Status.WRONG, "leads elsewhere"
    return Status.OK, f"a malformed record beside it is ignored: {found.problem}" if found.problem else ""


def _same_targets(answer: _Answer, other: _Answer) -> bool:
    if isinstance(other, TemporaryError):
        return True  # nothing to compare with
    return {record.target for record in _records(answer)} == {record.target for record in other.records}


def _host(resolver: Resolver, host: str) -> HostFinding:
    try:
        return HostFinding(host, Status.OK, tuple(resolver.addresses(host)), "")
    except TemporaryError as error:
        return HostFinding(host, Status.FAILED if error.code == "4.4.3" else Status.WRONG, (), error.text)
