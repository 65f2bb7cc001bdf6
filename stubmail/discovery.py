"""Discovery: what a domain offers for stub mail and where its hosts are, from DNS, cached as long as DNS allows.

Absent is not failed: only a name server's word that there are no records lets a caller treat a domain as a legacy one.
"""

import copy
import ipaddress
import random
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import dns.rdatatype
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

from stubmail.address import AddressError, parse_domain
from stubmail.dns.addresses import is_allowed
from stubmail.dns.cache import TtlCache
from stubmail.dns.offer import Found, assess, read_post, read_srv
from stubmail.dns.query import Answer, Upstream
from stubmail.dns.records import (
    CHECK_NAME,
    KEYS_NAME,
    STORE_NAME,
    PostRecord,
    RecordError,
    SrvRecord,
    Store,
    StubDomain,
    Target,
)
from stubmail.errors import PermanentError, TemporaryError
from stubmail.settings import ConfigError, Dns

DNS_PORT = 53
CACHE_SIZE = 4096  # answers; a few hundred octets each
MAX_ADDRESSES = 8  # of each family for one host; the rest is not tried


class Resolver:
    """Asks DNS and remembers the answers; one instance serves all threads of a process.

    ``nameserver`` is the IP address and port of the resolver to ask, by default those of /etc/resolv.conf;
    ``timeout`` is in seconds for one question; ``allow_private`` lets ``addresses`` return loopback and private
    addresses; ``clock`` and ``rng`` are for tests. Raises ConfigError when there is no usable resolver.
    """

    def __init__(
        self,
        nameserver: tuple[str, int] | None = None,
        *,
        timeout: float = 5.0,
        allow_private: bool = False,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._upstream = Upstream(nameserver, timeout)
        self._allow_private = allow_private
        self._cache: TtlCache[tuple[str, RdataType], Answer] = TtlCache(CACHE_SIZE, clock)
        self._rng = rng or random.SystemRandom()

    @classmethod
    def from_settings(cls, options: Dns) -> "Resolver":
        """Return the resolver that [dns] of stub.conf asks for. Raises ConfigError."""
        nameserver: tuple[str, int] | None = None
        if options.resolver:
            try:
                place = urlsplit(f"//{options.resolver}")
                nameserver = place.hostname or "", place.port or DNS_PORT
            except ValueError as error:
                raise ConfigError(f"[dns] resolver: {options.resolver!r} is not ADDRESS:PORT") from error
        return cls(nameserver, timeout=options.timeout_seconds, allow_private=options.allow_private)

    def discover(self, domain: str) -> StubDomain | None:
        """Return what ``domain`` offers, or None when DNS says with authority that it offers no stub mail.

        None means that none of the three records exists. A UDP check of ``.`` leaves ``checks`` empty. Raises
        TemporaryError 4.4.3 when DNS fails, and 4.4.4, with the names of the records, when some are there and others
        are missing, malformed or ``.``: such mail waits, it never goes out in clear text (protocol.md §3.3). Raises
        PermanentError 5.1.2 for a malformed domain.
        """
        try:
            name = parse_domain(domain)
        except AddressError as error:
            raise PermanentError("5.1.2", str(error)) from error
        return assess(name, self.srv(CHECK_NAME, name), self.srv(KEYS_NAME, name), self.posts(name), self._rng)

    def addresses(self, host: str) -> list[str]:
        """Return the IP addresses to try for ``host``, IPv4 before IPv6; an IP address stands for itself.

        Raises TemporaryError 4.4.3 when DNS fails, 4.4.4 when there is no address, or none that may be used:
        loopback, private, link-local, multicast, unspecified and reserved ones are not unless ``allow_private``.
        """
        found = self._literal(host) or self._lookup(host)
        usable = [address for address in found if is_allowed(address, self._allow_private)]
        if not usable:
            what = "only addresses that must not be used" if found else "no address"
            raise TemporaryError("4.4.4", f"{host} has {what}")
        return usable

    def for_configured_hosts(self) -> "Resolver":
        """Return one that shares this one's answers and allows any address.

        It is for hosts that our own configuration names. Who publishes records has no say in those, so they cannot lead
        us into our own network.
        """
        resolver = copy.copy(self)
        resolver._allow_private = True
        return resolver

    def flush(self) -> None:
        """Forget all answers."""
        self._cache.clear()

    def srv(self, service: str, domain: str) -> Found[SrvRecord]:
        """Ask for the SRV records of ``service`` (``_pks._tcp``) at ``domain``. Raises TemporaryError 4.4.3."""
        answer = self._ask(f"{service}.{domain}", dns.rdatatype.SRV)
        records = (record for record in answer.records if isinstance(record, SRV))
        return read_srv([(r.priority, r.weight, r.port, r.target.to_text()) for r in records])

    def posts(self, domain: str) -> Found[PostRecord]:
        """Ask for the ``_post._tcp`` TXT records of ``domain``. Raises TemporaryError 4.4.3."""
        answer = self._ask(f"{STORE_NAME}.{domain}", dns.rdatatype.TXT)
        return read_post([record.strings for record in answer.records if isinstance(record, TXT)])

    def _literal(self, host: str) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            return []

    def _lookup(self, host: str) -> list[str]:
        try:
            name = parse_domain(host)
        except AddressError as error:
            raise TemporaryError("4.4.4", str(error)) from error
        found: list[str] = []
        failure: TemporaryError | None = None
        for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            try:
                records = self._ask(name, rdtype).records[:MAX_ADDRESSES]
            except TemporaryError as error:
                failure = error  # one family is enough; a broken AAAA is common
                continue
            found += [record.address for record in records if isinstance(record, A | AAAA)]
        if failure is not None and not found:
            raise failure
        return found

    def _ask(self, name: str, rdtype: RdataType) -> Answer:
        key = (name.lower(), rdtype)
        answer = self._cache.get(key)
        if answer is None:
            answer = self._upstream.ask(name, rdtype)
            if answer.ttl:
                self._cache.put(key, answer, answer.ttl)
        return answer


def configured_store(url: str, section: str = "smtp2stub") -> Store | None:
    """Return the store that ``store`` in a section of stub.conf names, None when it is empty. Raises ConfigError."""
    try:
        return Store.from_url(url) if url else None
    except RecordError as error:
        raise ConfigError(f"[{section}] store {error}") from error


__all__ = ["Resolver", "Store", "StubDomain", "Target", "configured_store"]
