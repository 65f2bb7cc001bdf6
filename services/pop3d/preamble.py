"""A connection until it is known whose it is: a proxy has to say whom it speaks for."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import cast

from services.pop3d import proxy
from services.pop3d.listening import peer_of
from services.pop3d.settings import Network
from stubmail.limits import within
from stubmail.log import event

SECONDS = 5.0  # for the header to come

logger = logging.getLogger("pop3d")


class Preamble(asyncio.Protocol):
    """Waits for the PROXY header of a peer within ``proxies``; others are clients, and what they send is theirs.

    ``begin`` makes the protocol that goes on, given the client's address.
    """

    def __init__(self, proxies: Sequence[Network], begin: Callable[[str], asyncio.Protocol]) -> None:
        self._proxies = proxies
        self._begin = begin
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = peer_of(transport)
        if within(self._peer, self._proxies):
            self._timer = asyncio.get_running_loop().call_later(SECONDS, self._refuse, "no PROXY header in time")
        else:
            self._go_on(self._peer, b"")

    def data_received(self, data: bytes) -> None:
        self._data += data  # at most what one read takes: anything longer is a header, or none
        try:
            header = proxy.from_wire(self._data)
        except proxy.ProxyError as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        self._timer.cancel()
        self._go_on(header.address or self._peer, self._data[header.end :])

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()

    def _go_on(self, address: str, data: bytes) -> None:
        client = self._begin(address)
        self._transport.set_protocol(client)
        client.connection_made(self._transport)
        if data:
            client.data_received(data)

    def _refuse(self, reason: str) -> None:
        event(logger, "refused", secrets.token_hex(4), logging.WARNING, proxy=self._peer, reason=reason)
        self._transport.abort()
