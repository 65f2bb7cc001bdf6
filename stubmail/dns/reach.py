"""Asks whether the services that a domain names answer: a TCP connection, or a UDP check with an unknown cookie."""

import secrets
import socket
from dataclasses import dataclass
from functools import partial

from stubmail import datagram
from stubmail.datagram import DatagramError
from stubmail.discovery import Resolver, StubDomain
from stubmail.errors import TemporaryError
from stubmail.udp_question import TRIES, ask

TIMEOUT = 3.0  # seconds for one address


@dataclass(frozen=True, slots=True)
class Reached:
    """One service at one address: an empty ``problem`` means that it answers."""

    what: str  # "UDP check", "key server" or "store"
    host: str
    port: int
    address: str
    problem: str


def reach(resolver: Resolver, offer: StubDomain) -> list[Reached]:
    """Try every target of ``offer`` at each of its addresses; a host without any is left out, check names it."""
    places = [("UDP check", target.host, target.port) for target in offer.checks]
    places += [("key server", target.host, target.port) for target in offer.keyservers]
    places += [("store", store.host, store.port) for store in offer.stores]
    results = []
    for what, host, port in dict.fromkeys(places):
        try:
            addresses = resolver.addresses(host)
        except TemporaryError:
            continue
        for address in addresses:
            problem = _check(address, port) if what == "UDP check" else _connect(address, port)
            results.append(Reached(what, host, port, address, problem))
    return results


def _connect(address: str, port: int) -> str:
    try:
        socket.create_connection((address, port), timeout=TIMEOUT).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""


def _check(address: str, port: int) -> str:
    nonce = secrets.token_bytes(16)
    question = datagram.check_to_wire(secrets.token_bytes(16), nonce, secrets.token_bytes(32))
    try:
        read = partial(datagram.answer_from_wire, nonce=nonce, key=b"")
        if ask(address, port, question, read, TIMEOUT / TRIES) is not None:
            return ""
    except DatagramError:
        return "answers, but not as a store does"
    except OSError as error:
        return error.strerror or str(error)
    return "no answer"
