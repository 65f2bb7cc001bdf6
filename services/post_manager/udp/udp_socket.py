"""A UDP socket whose answers leave from the address that was asked, also on a host that has several (ip(7))."""

import socket
import struct
from typing import Any, NamedTuple

from stubmail.cli import listening_error

RECEIVE_BUFFER = 4 * 2**20  # octets; the kernel may give less

_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)  # Python names it from 3.14 on
_IN4_INFO = struct.Struct("=I4s4s")  # interface, the local address that was asked, the one in the header
_IN6_INFO = struct.Struct("=16sI")  # the address that was asked, interface
_SPACE = socket.CMSG_SPACE(_IN6_INFO.size)

Ancillary = list[tuple[int, int, bytes]]


class Arrived(NamedTuple):
    """A datagram, who sent it, and where it arrived, as the socket says it."""

    data: bytes
    peer: tuple[Any, ...]
    where: Ancillary

    @property
    def address(self) -> str:
        """The sender's IP address."""
        return str(self.peer[0])


class UdpSocket:
    """Receives and sends single datagrams; never blocks."""

    def __init__(self, address: str, port: int) -> None:
        """Bind to an address and a port. Raises Exit when that cannot be done."""
        try:
            family, kind, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind)
        except OSError as error:
            raise listening_error(error, address, port) from error
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._socket.bind(place)
            self._wildcard = self._socket.getsockname()[0] in ("0.0.0.0", "::")  # noqa: S104 - asked, not bound
            if self._wildcard and family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            elif self._wildcard:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        except OSError as error:
            self._socket.close()
            raise listening_error(error, address, port) from error
        self._arrived_at: Ancillary = []
        self._leaves_from: Ancillary = []

    @property
    def name(self) -> tuple[str, int]:
        """The address and port it is bound to."""
        address, port = self._socket.getsockname()[:2]
        return str(address), int(port)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def receive(self, most: int, size: int) -> list[Arrived]:
        """Return the datagrams that have arrived, at most so many, each cut at ``size`` octets."""
        arrived: list[Arrived] = []
        append, receive, receive_from = arrived.append, self._socket.recvmsg, self._socket.recvfrom
        try:
            if self._wildcard:
                for _ in range(most):
                    data, where, _, peer = receive(size, _SPACE)
                    append(Arrived(data, peer, where))
            else:
                for _ in range(most):
                    data, peer = receive_from(size)
                    append(Arrived(data, peer, []))
        except OSError:
            # Nothing is left; or an error that belongs to an earlier answer (ICMP), which nobody waits for.
            pass
        return arrived

    def send(self, data: bytes, question: Arrived) -> bool:
        """Send an answer; false when it was not possible, as happens to datagrams."""
        try:
            if not self._wildcard:
                self._socket.sendto(data, question.peer)
                return True
            if question.where != self._arrived_at:  # seldom: hosts are asked at one address, most of the time
                self._leaves_from = [_from_there(*item) for item in question.where]
                self._arrived_at = question.where
            self._socket.sendmsg((data,), self._leaves_from, 0, question.peer)
        except OSError:
            return False
        return True


def _from_there(level: int, kind: int, data: bytes) -> tuple[int, int, bytes]:
    """Turn where a datagram arrived into where its answer leaves; the route is left to the kernel."""
    if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
        _, asked, _ = _IN4_INFO.unpack(data)
        return level, kind, _IN4_INFO.pack(0, asked, bytes(4))
    address, interface = _IN6_INFO.unpack(data)
    link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return level, kind, _IN6_INFO.pack(address, interface if link_local else 0)
