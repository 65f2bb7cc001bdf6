"""The PROXY protocol, version 2: what a proxy says of the client it speaks for, in front of that one's octets; no I/O.

haproxy.org/download/2.8/doc/proxy-protocol.txt §2.2. Version 1 is not spoken: it is text, as what clients say is.
"""

import ipaddress
import struct
from dataclasses import dataclass

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_REST = 2048  # octets behind the fixed part: addresses and whatever else the proxy says, which is passed over

_FIXED = struct.Struct(">12sBBH")
_LOCAL, _PROXY = 0x20, 0x21  # version 2 and the command
_TCP4, _TCP6, _UNSPEC = 0x11, 0x21, 0x00
_ADDRESSES = {_TCP4: 12, _TCP6: 36}  # octets


class ProxyError(Exception):
    """What came is no header of version 2, or one of a kind that makes no sense here."""


@dataclass(frozen=True, slots=True)
class Header:
    """The client's ``address``, empty when the proxy speaks for itself; its first octets begin at ``end``."""

    address: str
    end: int


def from_wire(data: bytes) -> Header | None:
    """Return the header that ``data`` begins with, or None while it is not whole. Raises ProxyError, early."""
    if not SIGNATURE.startswith(data[: len(SIGNATURE)]):
        raise ProxyError("no PROXY header of version 2")
    if len(data) < _FIXED.size:
        return None
    _, command, family, length = _FIXED.unpack_from(data)
    if command not in (_LOCAL, _PROXY):
        raise ProxyError(f"unknown version or command {command:#04x}")
    if length > MAX_REST:
        raise ProxyError(f"{length} octets of header")
    if command == _PROXY and family not in _ADDRESSES:
        raise ProxyError(f"a client by another way than TCP, {family:#04x}")
    if command == _PROXY and length < _ADDRESSES[family]:
        raise ProxyError("the addresses are cut short")
    end = _FIXED.size + length
    if len(data) < end:
        return None
    if command == _LOCAL:
        return Header("", end)
    size = 4 if family == _TCP4 else 16
    return Header(str(ipaddress.ip_address(data[_FIXED.size : _FIXED.size + size])), end)


def to_wire(address: str, port: int, local: str, local_port: int) -> bytes:
    """Return the header for a client at ``address``, which reached the proxy at ``local``; both of one family."""
    client, proxy = ipaddress.ip_address(address), ipaddress.ip_address(local)
    body = client.packed + proxy.packed + struct.pack(">HH", port, local_port)
    family = _TCP4 if client.version == 4 else _TCP6
    return _FIXED.pack(SIGNATURE, _PROXY, family, len(body)) + body
