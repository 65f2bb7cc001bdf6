"""Which IP addresses a record made by a stranger may lead us to: never into our own network, unless a demo says so."""

import ipaddress

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

BROADCAST = ipaddress.IPv4Address("255.255.255.255")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1


def is_allowed(text: str, allow_private: bool) -> bool:
    """Tell whether to connect to the address ``text`` that a host name led to.

    Globally reachable unicast addresses are right, also when an IPv6 address only wraps an IPv4 one; ``allow_private``
    adds loopback, private and documentation ranges; multicast, broadcast, unspecified and link-local are always wrong.
    """
    address = _unwrapped(ipaddress.ip_address(text))
    if address.is_multicast or address.is_unspecified or address.is_link_local or address == BROADCAST:
        return False
    return allow_private or (address.is_global and not address.is_reserved)


def _unwrapped(address: IPAddress) -> IPAddress:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
