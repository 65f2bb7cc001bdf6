"""Listening sockets, bound before anything else begins: a port in use is one sentence and an exit status; and peers."""

import asyncio
import socket

from stubmail.cli import listening_error

MAPPED = "::ffff:"


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a bound socket for each address that ``host`` has; port 0 takes any. Raises Exit."""
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            bound = socket.socket(family, kind, protocol)
            sockets.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))  # [::] is for IPv4 too
            bound.bind(address)
    except OSError as error:
        for bound in sockets:
            bound.close()
        raise listening_error(error, host, port) from error
    return sockets


def everywhere(port: int) -> str:
    """Return what to listen on to be reached at all of this machine's addresses: HOST:PORT."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:  # this kernel or container has no IPv6
        return f"0.0.0.0:{port}"
    return f"[::]:{port}"


def name_of(bound: socket.socket) -> str:
    """Return ADDRESS:PORT of a bound socket, with the port that was really taken."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_of(transport: asyncio.BaseTransport) -> str:
    """Return the address of a connection's peer; some text that is none when it has gone already, or has none.

    An IPv4 address is told as one where the socket is IPv6's too (RFC 4291 §2.5.5.2): in the log, and to PAM.
    """
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return "local"
    address = str(peer[0])
    return address.removeprefix(MAPPED) if "." in address else address
