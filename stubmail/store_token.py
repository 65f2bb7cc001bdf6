"""A client's token for one store: got over UDP when the store wants one, kept while it is good (protocol.md §6.6)."""

import ipaddress
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Protocol

from stubmail.datagram import DatagramError, Token, token_from_wire, token_request_to_wire
from stubmail.dns.records import StubDomain
from stubmail.errors import TemporaryError
from stubmail.udp_question import PATIENCE, ask

FIELD = "Stub-Token"  # the header field that carries it, protocol.md §4
MARGIN = 10.0  # seconds before its end from which a token is not used any more
MAX_PLACES = 4  # addresses that are asked


class Discovery(Protocol):
    """The part of a Resolver that is used here."""

    def discover(self, domain: str) -> StubDomain | None: ...

    def addresses(self, host: str) -> list[str]: ...


class StoreToken:
    """The token for the store of ``domain``; for one thread at a time. ``clock`` is in seconds."""

    def __init__(
        self, discovery: Discovery, domain: str, clock: Callable[[], float], patience: float = PATIENCE
    ) -> None:
        self._discovery = discovery
        self._domain = domain
        self._clock = clock
        self._patience = patience
        self._token: Token | None = None
        self._until = 0.0
        self._address = ""  # of the store, when it wanted a token

    def fields(self) -> Mapping[str, str]:
        """The header fields for the next request: none, as long as the store has not wanted a token.

        Raises TemporaryError when the token has come to its end and there is no other.
        """
        if self._token is not None and self._clock() >= self._until:
            self.renew(self._address)
        return {FIELD: self._token.octets.hex()} if self._token is not None else {}

    def renew(self, address: str) -> None:
        """Get another token, over the same kind of IP as the HTTP request that ``address`` answered.

        Raises TemporaryError 4.4.1 when none of the domain's UDP ports gives one.
        """
        self._token, self._address = None, address
        for place, port in self._places(ipaddress.ip_address(address).version):
            nonce = secrets.token_bytes(16)
            try:
                token = ask(
                    place, port, token_request_to_wire(nonce), partial(token_from_wire, nonce=nonce), self._patience
                )
            except (DatagramError, OSError):
                continue
            if token is not None:
                self._token, self._until = token, self._clock() + token.lifetime - MARGIN
                return
        raise TemporaryError("4.4.1", f"the store of {self._domain} wants a token, but its UDP port gives none")

    def _places(self, version: int) -> Iterator[tuple[str, int]]:
        offer = self._discovery.discover(self._domain)
        places = (
            (address, target.port)
            for target in (offer.checks if offer is not None else ())
            for address in self._discovery.addresses(target.host)
            if ipaddress.ip_address(address).version == version
        )
        for place, _ in zip(places, range(MAX_PLACES), strict=False):
            yield place
