"""One question to a DNS resolver: the records, or their authoritative absence, or a failure; never one for another."""

import ipaddress
from dataclasses import dataclass

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.resolver

from stubmail.errors import TemporaryError
from stubmail.settings import ConfigError

MAX_CHAIN = 8  # questions asked for one name because an answer ended in a CNAME
MAX_TTL = 86_400  # seconds; what a zone promises for longer is asked again
MAX_NEGATIVE_TTL = 10_800  # seconds, RFC 2308 §5: one to three hours
EDNS_PAYLOAD = 1232  # octets; what passes unfragmented, as agreed on DNS flag day 2020


@dataclass(frozen=True, slots=True)
class Answer:
    """The records of one name and type, none when authoritatively absent; ``ttl`` in seconds, 0 for not to be kept."""

    records: tuple[dns.rdata.Rdata, ...]
    ttl: int


class Upstream:
    """The resolver that is asked; without ``nameserver`` those of /etc/resolv.conf.

    ``timeout`` is in seconds for one question, all tries, servers and the change to TCP together. Raises ConfigError
    when the name server is not an IP address, or when there is none.
    """

    def __init__(self, nameserver: tuple[str, int] | None, timeout: float) -> None:
        try:
            self._resolver = dns.resolver.Resolver(configure=nameserver is None)
        except dns.resolver.NoResolverConfiguration as error:
            raise ConfigError("there is no DNS resolver in /etc/resolv.conf; name one in [dns] resolver") from error
        if nameserver is not None:
            host, port = nameserver
            try:
                ipaddress.ip_address(host)
            except ValueError:
                raise ConfigError(f"the DNS resolver {host!r} must be an IP address") from None
            self._resolver.nameservers = [host]
            self._resolver.port = port
        self._resolver.lifetime = timeout
        self._resolver.timeout = min(2.0, timeout / 2)
        self._resolver.use_edns(0, 0, EDNS_PAYLOAD)

    def ask(self, name: str, rdtype: dns.rdatatype.RdataType) -> Answer:
        """Ask for ``name`` (without a final dot), following CNAMEs.

        Raises TemporaryError 4.4.3 when no answer can be relied on: a timeout, SERVFAIL, REFUSED, a referral, a loop.
        """
        try:
            question = dns.name.from_text(name + ".")
        except dns.exception.DNSException:
            return Answer((), MAX_NEGATIVE_TTL)  # longer than any name can be: it cannot exist
        ttl = MAX_TTL
        for _ in range(MAX_CHAIN):
            response = self._ask_once(question, rdtype)
            chain = response.resolve_chaining()
            if chain.answer is not None:
                return Answer(tuple(chain.answer), min(ttl, chain.minimum_ttl))
            if chain.canonical_name == question or response.rcode() == dns.rcode.NXDOMAIN:
                has_soa = any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority)
                negative = min(chain.minimum_ttl, MAX_NEGATIVE_TTL) if has_soa else 0  # RFC 2308 §5
                return Answer((), min(ttl, negative))
            ttl = min([ttl, *(alias.ttl for alias in chain.cnames)])
            question = chain.canonical_name  # the server gave the CNAME only: what it points to is another question
        raise TemporaryError("4.4.3", f"DNS: too many aliases for {name}")

    def _ask_once(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.message.QueryMessage:
        try:
            response = self._resolver.resolve(name, rdtype, search=False, raise_on_no_answer=False).response
        except dns.resolver.NXDOMAIN as absent:
            response = absent.kwargs["responses"][name]
        except (dns.exception.DNSException, OSError) as error:
            raise TemporaryError("4.4.3", f"DNS: {_reason(error)} asking for {_text(name)} {rdtype.name}") from error
        assert isinstance(response, dns.message.QueryMessage)
        if _is_referral(response):
            raise TemporaryError("4.4.3", f"DNS: only a referral in answer to {_text(name)} {rdtype.name}")
        return response


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


def _is_referral(response: dns.message.QueryMessage) -> bool:
    """Tell a referral from "no such record": both have no answer, but a referral names servers and has no SOA.

    RFC 2308 §2.2.1. The server is not one for this zone, so its silence says nothing.
    """
    kinds = {rrset.rdtype for rrset in response.authority}
    return (
        not response.answer
        and not response.flags & dns.flags.AA
        and dns.rdatatype.NS in kinds
        and dns.rdatatype.SOA not in kinds
    )


def _reason(error: Exception) -> str:
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return "no answer in time"
    if isinstance(error, dns.resolver.NoNameservers):
        attempts = error.kwargs.get("errors", ())
        codes = sorted({_code(attempt[3], attempt[4]) for attempt in attempts if isinstance(attempt[3], str)})
        return ", ".join(codes) or "no usable answer"
    return type(error).__name__


def _code(rcode: str, response: dns.message.Message | None) -> str:
    """The rcode, and what the resolver says of its cause (RFC 8914): without that, bogus DNSSEC is a mere SERVFAIL."""
    options = response.options if response is not None else ()
    causes = [dns.edns.EDECode.to_text(option.code) for option in options if isinstance(option, dns.edns.EDEOption)]
    return f"{rcode} ({', '.join(causes[:3])})" if causes else rcode
