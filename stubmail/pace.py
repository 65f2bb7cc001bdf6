"""Reading HTTP answers from peers that may stall on purpose: octets must come fast enough, and be worth something.

A timeout for each wait alone lets a peer send one octet just before each of them ends, or head lines for ever.
"""

import errno
import io
import time
from http.client import HTTPResponse
from socket import socket
from ssl import SSLEOFError
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GRACE_SECONDS = 60.0  # of waiting for the peer, after which an answer has to have come faster than MIN_RATE
MIN_RATE = 1024  # octets a second
MAX_OVERHEAD = 262_144  # octets in a row that are no content: head lines, chunk sizes, trailers


class PacedReader(io.RawIOBase):
    """A connection's octets as they arrive. Reading raises TimeoutError from a peer too slow, OSError from one too
    talkative; only the time spent waiting counts, not what the caller does with the octets.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._waited = 0.0
        self._received = 0
        self._overhead = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        if self._overhead > MAX_OVERHEAD:
            raise OSError("the answer has too much around its content")
        if self._waited > GRACE_SECONDS and self._received < MIN_RATE * self._waited:
            raise TimeoutError("the answer comes too slowly")
        started = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        self._waited += time.monotonic() - started
        self._received += count or 0
        self._overhead += count or 0
        return count

    def got_content(self) -> None:
        """Some of what was read was content."""
        self._overhead = 0

    def close(self) -> None:
        self._raw.close()
        super().close()


class PacedResponse(HTTPResponse):
    """An HTTP answer read through a PacedReader; ``read1`` is the way to read it."""

    def __init__(self, sock: socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._paced = PacedReader(sock.makefile("rb", buffering=0))
        self.fp.close()
        self.fp = io.BufferedReader(self._paced)

    def read1(self, n: int = -1) -> bytes:
        data = super().read1(n)
        self._paced.got_content()
        return data


class _Connection(HTTPConnection):
    response_class = PacedResponse


class _TlsConnection(HTTPSConnection):
    response_class = PacedResponse

    def send(self, data: Any) -> None:
        """Send octets; a peer that hung up is a broken pipe, as without TLS: it may have answered before it did so."""
        try:
            super().send(data)
        except SSLEOFError as error:
            raise BrokenPipeError(errno.EPIPE, "the peer hung up") from error


class PacedPool(HTTPConnectionPool):
    """Connections to one address, whose answers are paced."""

    ConnectionCls = _Connection


class PacedTlsPool(HTTPSConnectionPool):
    """As PacedPool, over TLS."""

    ConnectionCls = _TlsConnection
