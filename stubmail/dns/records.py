"""The records by which a domain offers stub mail (protocol.md §3): how they are parsed, ordered and formatted.

_stub._udp.DOMAIN  SRV  pri weight port host            UDP check
_pks._tcp.DOMAIN   SRV  pri weight port host            key server (HKP)
_post._tcp.DOMAIN  TXT  "pri weight port host prefix"   the store's URL; port 443 means https
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from stubmail.address import AddressError, parse_domain

CHECK_NAME = "_stub._udp"
KEYS_NAME = "_pks._tcp"
STORE_NAME = "_post._tcp"
GNUPG_NAME = "_pgpkey-http._tcp"  # where plain GnuPG looks for a domain's key server: the same targets as _pks

CHECK_PORT = 2225
KEYS_PORT = 11371
SMTP_PORT = 25
HTTPS_PORT = 443

MAX_RECORDS = 32  # of one kind at one domain; more is an attack or a mistake
MAX_TXT = 512  # octets of one TXT record, its strings joined
MAX_PREFIX = 255  # characters, protocol.md §3.1

_NUMBER = re.compile(r"[0-9]{1,5}")
_SEGMENT = re.compile(r"[A-Za-z0-9_~.-]+")


class RecordError(ValueError):
    """The record is not one that stub mail can use; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one service of a domain answers: a host name, canonical and without a final dot, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Store:
    """Where a domain's post_manager answers; ``prefix`` is the URL's path without its first slash.

    ``domain`` is whose it is, as far as that is known.
    """

    host: str
    port: int
    prefix: str
    domain: str = field(default="", compare=False)

    @property
    def url(self) -> str:
        """The store's URL: https on port 443, http with the port on any other."""
        if self.port == HTTPS_PORT:
            return f"https://{self.host}/{self.prefix}"
        return f"http://{self.host}:{self.port}/{self.prefix}"

    @classmethod
    def from_url(cls, url: str) -> "Store":
        """Parse a store's URL, https on port 443 and http on any other. Raises RecordError."""
        parts = urlsplit(url)
        default = {"http": 80, "https": HTTPS_PORT}.get(parts.scheme)
        try:
            port = parts.port or default
        except ValueError:
            port = None
        prefix = parts.path.strip("/")
        secure = port == HTTPS_PORT
        if default is None or port is None or not parts.hostname or not prefix or secure != (parts.scheme == "https"):
            raise RecordError(f"must be http://HOST[:PORT]/PREFIX or https://HOST/PREFIX, not {url!r}")
        return cls(parts.hostname, port, prefix)

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class StubDomain:
    """What a domain that takes part in stub mail offers, each in the order in which to try (RFC 2782).

    ``checks`` is empty when the domain offers no UDP check; ``keyservers`` and ``stores`` have one entry at least.
    """

    domain: str
    checks: tuple[Target, ...]
    keyservers: tuple[Target, ...]
    stores: tuple[Store, ...]


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One SRV record (RFC 2782); ``host`` is empty for the target ``.``: the service is decidedly not offered."""

    priority: int
    weight: int
    port: int
    host: str

    def format(self) -> str:
        """Return the record's data as it stands in a zone file."""
        return f"{self.priority} {self.weight} {self.port} {self.host}."

    @property
    def target(self) -> Target:
        """Where the record points; only for records that do (``host`` is not empty)."""
        return Target(self.host, self.port)


@dataclass(frozen=True, slots=True)
class PostRecord:
    """One ``_post._tcp`` TXT record; ``host`` is empty for the target ``.``: the store is decidedly not offered."""

    priority: int
    weight: int
    port: int
    host: str
    prefix: str

    def format(self) -> str:
        """Return the record's data as it stands in a zone file, quotes included."""
        return f'"{self.priority} {self.weight} {self.port} {self.host}. {self.prefix}"'

    @property
    def target(self) -> Store:
        """Where the record points; only for records that do (``host`` is not empty)."""
        return Store(self.host, self.port, self.prefix)


class Weighted(Protocol):
    """What RFC 2782 orders by: the lowest priority first, then at random in proportion to the weight."""

    @property
    def priority(self) -> int: ...

    @property
    def weight(self) -> int: ...


Record = TypeVar("Record", bound=Weighted)


def parse_srv(priority: int, weight: int, port: int, host: str) -> SrvRecord:
    """Check the fields of one SRV record. Raises RecordError."""
    name = _parse_host(host)
    if max(priority, weight, port) > 65535 or min(priority, weight, port) < 0 or (name and not port):
        raise RecordError(f"{port} is not a port")
    return SrvRecord(priority, weight, port, name)


def parse_post(strings: Sequence[bytes]) -> PostRecord:
    """Parse one TXT record, its strings joined: ``pri weight port host prefix`` (protocol.md §3.1). Raises RecordError.

    The host is a name: an address would escape the domain's control of where it points, and SRV allows none either.
    """
    data = b"".join(strings)
    if len(data) > MAX_TXT:
        raise RecordError(f"the TXT record is longer than {MAX_TXT} octets")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise RecordError("the TXT record is not ASCII text") from None
    fields = [field for field in text.split(" ") if field]
    if len(fields) != 5:
        raise RecordError('the TXT record must have five fields: "priority weight port host prefix"')
    priority, weight, port = (_parse_number(field) for field in fields[:3])
    host = _parse_host(fields[3])
    if host and not port:
        raise RecordError(f"{port} is not a port")
    return PostRecord(priority, weight, port, host, _parse_prefix(fields[4]))


def is_post(strings: Sequence[bytes]) -> bool:
    """Tell whether a TXT record means to be one of ours: it begins with a digit.

    Many zones answer every name with a wildcard TXT such as ``v=spf1 -all``; that must not look like a broken offer.
    """
    return b"".join(strings).lstrip(b" ")[:1].isdigit()


def in_order(records: Iterable[Record], rng: random.Random) -> list[Record]:
    """Return the records in the order in which a client tries them (RFC 2782, "Usage rules"; protocol.md §3.2)."""
    ordered: list[Record] = []
    rest = sorted(records, key=lambda record: (record.priority, record.weight))  # weight 0 first, as the RFC asks
    while rest:
        group = [record for record in rest if record.priority == rest[0].priority]
        pick = rng.randint(0, sum(record.weight for record in group))
        for chosen in group:
            pick -= chosen.weight
            if pick <= 0:
                break
        ordered.append(chosen)
        rest.remove(chosen)
    return ordered


def _parse_number(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > 65535:
        raise RecordError(f"{text[:20]!r} is not a number from 0 to 65535")
    return int(text)


def _parse_host(text: str) -> str:
    if text == ".":
        return ""
    if not text.isascii():
        raise RecordError(f"{text[:80]!r} is not a host name")
    try:
        name = parse_domain(text)
    except AddressError as error:
        raise RecordError(f"{text[:80]!r} is not a host name") from error
    if name.rpartition(".")[2].isdigit():
        raise RecordError(f"{name!r} is an address; a host name is needed")
    return name


def _parse_prefix(text: str) -> str:
    # No character of it can end the path, leave the host or climb: no "?", "#", "%", ":", "@", backslash or "//".
    segments = text.split("/")
    if len(text) > MAX_PREFIX or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise RecordError(f"{text[:80]!r} is not a URL path without its first slash")
    if any(segment in (".", "..") for segment in segments):
        raise RecordError(f"{text[:80]!r} must not contain '.' or '..'")
    return text
