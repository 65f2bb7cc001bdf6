"""The octets of one connection: in the clear or under TLS, on their way in, on their way out, and the end of both."""

import asyncio
import fcntl
import os
import socket
import ssl
import struct
import termios
from contextlib import suppress

from services.pop3d.tls import TlsLayer

WRITE_BUFFER = 262_144  # octets that wait to be sent; then nothing more is made until they are fewer

_INT = struct.Struct("i")
_TCP_CLOSE = 7  # a state, include/net/tcp_states.h


class Channel:
    """A transport with TLS upon it, once that is wanted. ``received`` and ``written`` count octets as on the wire.

    ``paused``: the client is not read.
    """

    __slots__ = ("_socket", "_tls", "_transport", "paused", "received", "written")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(WRITE_BUFFER)
        self._tls: TlsLayer | None = None
        self.paused = False
        connected = transport.get_extra_info("socket")
        self._socket = connected.fileno() if connected is not None else -1
        self.received = self.written = 0

    def begin_tls(self, context: ssl.SSLContext) -> None:
        """From here on nothing that comes is taken for clear text, and nothing is sent as such."""
        self._tls = TlsLayer(context)

    @property
    def under_tls(self) -> bool:
        """Whether TLS has begun."""
        return self._tls is not None

    @property
    def handshaking(self) -> bool:
        """Whether TLS has begun but nothing can be sent under it yet."""
        return self._tls is not None and not self._tls.established

    def binding(self, kind: str) -> bytes:
        """Return the TLS channel's data for a type of channel binding; nothing when there is none."""
        return self._tls.binding(kind) if self._tls is not None else b""

    @property
    def ended(self) -> bool:
        """Whether the client has said, in TLS, that nothing more will follow."""
        return self._tls is not None and self._tls.closed

    def receive(self, data: bytes) -> bytes:
        """Return what the client said. Raises ssl.SSLError, with the alert sent, when it is no TLS but should be."""
        self.received += len(data)
        if self._tls is None:
            return data
        if self._tls.closed:
            return b""  # RFC 8446 §6.1: it is ignored; the TLS library would keep it, however much it is
        try:
            return self._tls.receive(data)
        except ssl.SSLError:
            alert = self._tls.flush()
            self._tls = None  # nothing but the alert can be sent
            self.write(alert)
            raise
        finally:
            if self._tls is not None:
                self._send(self._tls.flush())

    def write(self, octets: bytes) -> None:
        """Send octets to the client; after the connection's end they go nowhere."""
        if octets:
            self._send(octets if self._tls is None else self._tls.send(octets))

    def pause_reading(self) -> None:
        """Take no more of what the client sends for now."""
        if not self.paused and not self._transport.is_closing():
            self.paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take it again."""
        if self.paused and not self._transport.is_closing():
            self.paused = False
            self._transport.resume_reading()

    def carry(self, protocol: asyncio.Protocol, limit: int) -> None:
        """Have ``protocol`` told of everything from here on; it may write ``limit`` octets before it should wait."""
        self._transport.set_protocol(protocol)
        self._transport.set_write_buffer_limits(limit)

    def descriptor(self) -> int:
        """Return that of the client's socket, or -1 when its octets are not all the client and the server say.

        That is so under TLS, and while there are octets here which wait to be sent.
        """
        connected = self._transport.get_extra_info("socket")
        if self._tls is not None or self._transport.get_write_buffer_size() or connected is None:
            return -1
        return int(connected.fileno())

    def unsent(self) -> int:
        """Return how many octets the client has not acknowledged, here and in the kernel.

        The kernel makes room for more only when a third of its buffer is free: for a slow client and a large buffer
        that is no measure of progress. What a client that has reset the connection did not acknowledge is not counted:
        it never will, and the event loop does not notice such an end behind that of what the client had to say.
        """
        unsent = self._transport.get_write_buffer_size()
        connected = self._transport.get_extra_info("socket")
        if connected is not None and connected.fileno() >= 0:
            with suppress(OSError):
                unsent += _INT.unpack(fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))[0]
            if unsent and _is_over(connected.fileno()):
                return 0
        return unsent

    def finish(self, linger: bool) -> None:
        """Close once everything is sent.

        With ``linger`` only the way out is closed, and the owner discards what still comes until the client hangs up
        or it is time to abort: octets that nobody reads would make the kernel send a reset, which overtakes the last
        words.
        """
        if self._tls is not None and self._tls.established:
            self._send(self._tls.close())
        if not linger:
            self._transport.close()
        elif not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:  # the client was faster
                self._transport.abort()
            self.resume_reading()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _send(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self.written += len(data)
            if not self._transport.get_write_buffer_size():
                data = data[self._send_now(data) :]
            if data:
                self._transport.write(data)

    def _send_now(self, data: bytes) -> int:
        """Give the kernel as much as it takes, and return how much that is.

        The event loop would do it with Python's global lock in its hands: others read messages in that time. What is
        wrong with the connection, the transport finds out when it is to send the rest.
        """
        try:
            return os.write(self._socket, data)
        except OSError:
            return 0


def _is_over(descriptor: int) -> bool:
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as same:
        return same.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    return False
