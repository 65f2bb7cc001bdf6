"""Asks a domain's key server for the certificate of an address, over HTTP (protocol.md §8)."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime

from stubmail.address import Address
from stubmail.discovery import Target
from stubmail.errors import TemporaryError
from stubmail.hkp import MAX_ANSWER, choose, lookup_path
from stubmail.http_client import ConnectionLost, HttpClient
from stubmail.openpgp import Certificate

PATIENCE = 30.0  # seconds; a domain may name many key servers, and have all of them keep us waiting


def in_turn(targets: Sequence[Target]) -> Iterator[Target]:
    """Yield key servers to ask, one after the other, until PATIENCE is over; the first one always."""
    end = time.monotonic() + PATIENCE
    for target in targets:
        yield target
        if time.monotonic() >= end:
            return


def look_up(http: HttpClient, target: Target, address: Address, now: datetime) -> Certificate:
    """Return the usable certificate that the key server ``target`` has for exactly this address.

    Raises TemporaryError: there is none, it is not one to be used, or the server does not answer as it should.
    """
    return choose(ask(http, target, address), address, now)


def ask(http: HttpClient, target: Target, address: Address) -> bytes:
    """Return what the key server ``target`` answers when it is asked for an address, b"" when it has nothing.

    At most MAX_ANSWER octets. Raises TemporaryError when the server does not answer as it should.
    """
    path = lookup_path(address)
    try:
        answer = http.get(target.host, target.port, path)
    except ConnectionLost:  # a kept-alive connection that the server had closed meanwhile
        answer = http.get(target.host, target.port, path)
    with answer:
        if answer.status == 404:
            return b""
        if answer.status != 200:
            raise TemporaryError("4.3.0", f"the key server {target} answers with HTTP status {answer.status}")
        return answer.read(MAX_ANSWER)
