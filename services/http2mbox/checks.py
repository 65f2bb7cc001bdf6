"""UDP checks (protocol.md §6): all domains' questions on one socket of each family, each awaited for itself."""

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from stubmail.cookies import Cookie
from stubmail.datagram import DatagramError, Unknown, Waiting, answer_from_wire, check_to_wire
from stubmail.udp_question import PATIENCE, TRIES

BUFFER = 2**20  # octets, for the answers to a round that come at once
_NONCE = slice(8, 24)  # of an answer as of a check

Place = tuple[str, int]


@dataclass(slots=True)
class _Question:
    key: bytes
    places: dict[bytes, Place]  # by nonce
    answered: asyncio.Future[tuple[Place, Waiting | Unknown]]


class Checks:
    """Asks from one socket for IPv4 and one for IPv6, as far as this host has them.

    An answer counts only when it comes from where the question went, carries its nonce, and is authentic; everything
    else is dropped without a word. ``patience``: seconds to wait for an answer to each of two datagrams.
    """

    def __init__(self, patience: float = PATIENCE, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._patience = patience
        self._random = random
        self._questions: dict[bytes, _Question] = {}  # by nonce
        self._sockets: dict[socket.AddressFamily, asyncio.DatagramTransport] = {}
        self.dropped = 0

    async def open(self) -> None:
        """Open the sockets; to be called once, in the event loop that asks."""
        loop = asyncio.get_running_loop()
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 (a client's)
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Receiver(self), local_addr=(anywhere, 0), family=family
                )
            except OSError:
                continue  # no such addresses on this host
            handle: socket.socket = transport.get_extra_info("socket")
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            self._sockets[family] = transport

    def close(self) -> None:
        """Close the sockets."""
        for transport in self._sockets.values():
            transport.close()
        self._sockets.clear()

    async def ask(self, places: Sequence[Place], cookie: Cookie) -> tuple[Place, Waiting | Unknown] | None:
        """Send a check to the first of ``places`` (IP address and port), and when it is silent to the next one.

        A single place is asked again. Returns who answered and what, None when nobody does in time.
        """
        question = _Question(cookie.key, {}, asyncio.get_running_loop().create_future())
        try:
            for place in islice(cycle(places), TRIES):
                transport = self._sockets.get(socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
                if transport is None:
                    continue
                nonce = self._random(16)
                question.places[nonce] = place
                self._questions[nonce] = question  # the first one's answer may come while the second one waits
                transport.sendto(check_to_wire(cookie.id, nonce, cookie.key), place)
                await asyncio.wait((question.answered,), timeout=self._patience)
                if question.answered.done():
                    return question.answered.result()
            return None
        finally:
            for nonce in question.places:
                del self._questions[nonce]

    def received(self, data: bytes, source: tuple[Any, ...]) -> None:
        """Take a datagram from whomever."""
        nonce = data[_NONCE]
        question = self._questions.get(nonce)
        if question is None or question.answered.done():
            self.dropped += 1
            return
        place = question.places[nonce]
        if _canonical(source) != _canonical(place):
            self.dropped += 1
            return
        try:
            question.answered.set_result((place, answer_from_wire(data, nonce, question.key)))
        except DatagramError:
            self.dropped += 1


class _Receiver(asyncio.DatagramProtocol):
    """Passes on what comes in; a datagram that could not be sent is to the question like one without an answer."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._checks.received(data, addr)


def _canonical(place: tuple[Any, ...]) -> Place:
    return str(ipaddress.ip_address(place[0].partition("%")[0])), place[1]
