"""What a domain has to publish: the same entries are rendered, checked, and served in the example zone."""

from dataclasses import asdict, dataclass

from stubmail.dns.records import (
    CHECK_NAME,
    CHECK_PORT,
    GNUPG_NAME,
    HTTPS_PORT,
    KEYS_NAME,
    KEYS_PORT,
    STORE_NAME,
    PostRecord,
    SrvRecord,
    parse_post,
    parse_srv,
)

PREFIX = "post_manager"
PRIORITY = 10
WEIGHT = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to publish: its full name without the final dot, its type, and the record itself."""

    name: str
    kind: str  # "SRV" or "TXT"
    record: SrvRecord | PostRecord
    purpose: str

    def format(self) -> str:
        """Return the entry as one line of a zone file."""
        return f"{self.name}. {self.kind} {self.record.format()}"


@dataclass(frozen=True, slots=True)
class Service:
    """Where a domain's services answer; an empty ``check_host`` publishes that no UDP check is offered."""

    store_host: str
    keys_host: str
    check_host: str
    store_port: int = HTTPS_PORT
    keys_port: int = KEYS_PORT
    check_port: int = CHECK_PORT
    prefix: str = PREFIX


def entries(domain: str, service: Service) -> tuple[Entry, ...]:
    """Return the records that ``domain`` (canonical) publishes for ``service``.

    Raises RecordError for a host, port or prefix that no client would accept.
    """
    keys = parse_srv(PRIORITY, WEIGHT, service.keys_port, service.keys_host)
    check = parse_srv(0, 0, 0, ".")  # RFC 2782: "the service is decidedly not available"
    if service.check_host:
        check = parse_srv(PRIORITY, WEIGHT, service.check_port, service.check_host)
    text = f"{PRIORITY} {WEIGHT} {service.store_port} {service.store_host} {service.prefix}"
    store = parse_post([text.encode()])
    return (
        Entry(f"{CHECK_NAME}.{domain}", "SRV", check, "where recipients ask, over UDP, whether mail waits"),
        Entry(f"{KEYS_NAME}.{domain}", "SRV", keys, "where senders find your users' keys"),
        Entry(f"{STORE_NAME}.{domain}", "TXT", store, "where recipients fetch their mail"),
        Entry(f"{GNUPG_NAME}.{domain}", "SRV", keys, "the key server again, under the name that plain GnuPG asks"),
    )


def format_zone(published: tuple[Entry, ...]) -> str:
    """Return zone file lines, each kind under a comment that says what it is for."""
    return "".join(f"; {entry.purpose}\n{entry.format()}\n" for entry in published)


def format_table(published: tuple[Entry, ...]) -> str:
    """Return a table for those who fill in a form at their DNS provider."""
    rows = [("NAME", "TYPE", "DATA")]
    rows += [(entry.name, entry.kind, entry.record.format()) for entry in published]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "".join(f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {data}\n" for name, kind, data in rows)


def to_json(published: tuple[Entry, ...]) -> list[dict[str, object]]:
    """Return the entries as JSON values: name, type, purpose, the data as one text and field by field."""
    return [
        {
            "name": entry.name,
            "type": entry.kind,
            "data": entry.record.format(),
            "fields": asdict(entry.record),
            "purpose": entry.purpose,
        }
        for entry in published
    ]
