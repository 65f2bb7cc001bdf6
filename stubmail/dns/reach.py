"""Asks whether the services that a domain names answer: a TCP connection, or a UDP check with an unknown cookie."""

import secrets
import socket
from dataclasses import dataclass

from stubmail import datagram
from stubmail.datagram import CHECK_SIZE, DatagramError
from stubmail.discovery import Resolver, StubDomain
from stubmail.errors import TemporaryError

TIMEOUT = 3.0  # seconds for one address
TRIES = 2  # a datagram may be lost


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
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    nonce = secrets.token_bytes(16)
    question = datagram.check_to_wire(secrets.token_bytes(16), nonce, secrets.token_bytes(32))
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(TIMEOUT / TRIES)
            client.connect((address, port))
            for _ in range(TRIES):
                client.send(question)
                try:
                    datagram.answer_from_wire(client.recv(CHECK_SIZE), nonce, b"")
                except TimeoutError:
                    continue
                return ""
    except DatagramError:
        return "answers, but not as a store does"
    except OSError as error:
        return error.strerror or str(error)
    return "no answer"
