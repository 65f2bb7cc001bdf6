"""A small real name server for demos and tests: UDP and TCP on one port, authoritative for the zones it is given.

As a process: ``python -m stubmail.testing.nameserver --zone FILE --listen 127.0.0.1:PORT``. It prints the address that
it listens on, reads the file again on SIGHUP, and ends with status 0 on SIGTERM.
"""

import logging
import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import click
import dns.zone

from stubmail import cli, log
from stubmail.errors import Exit
from stubmail.testing.authority import Authority
from stubmail.testing.zones import ZoneError, load_zone

TCP_TIMEOUT = 5.0  # seconds of silence after which a TCP client is left
MAX_TCP_QUESTIONS = 100  # on one connection
_BIND_TRIES = 20  # a free UDP port may be taken for TCP

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_log = logging.getLogger("nameserver")


class NameServer:
    """Serves zones until it is closed; use it as a context manager.

    ``listen`` is an IP address and port, 0 for a free one; ``address`` tells which. ``authority`` lets tests change
    the zones, order faults and count questions. Raises OSError when the port cannot be had.
    """

    def __init__(self, zones: Iterable[dns.zone.Zone], listen: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.authority = Authority(zones)
        udp, tcp = _bind(listen, self.authority)
        self.address: tuple[str, int] = (listen[0], udp.server_address[1])
        self._servers = (udp, tcp)
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), name="nameserver", daemon=True)
            for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "NameServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _UdpServer(socketserver.UDPServer):
    max_packet_size = 65535
    authority: Authority


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    authority: Authority


class _UdpHandler(socketserver.BaseRequestHandler):
    server: _UdpServer

    def handle(self) -> None:
        wire, sock = self.request
        for answer in self.server.authority.answer(wire, tcp=False):
            sock.sendto(answer, self.client_address)


class _TcpHandler(socketserver.StreamRequestHandler):
    server: _TcpServer
    timeout = TCP_TIMEOUT

    def handle(self) -> None:
        try:
            for _ in range(MAX_TCP_QUESTIONS):
                size = int.from_bytes(self.rfile.read(2), "big")  # RFC 1035 §4.2.2
                wire = self.rfile.read(size)
                if not wire:
                    return
                for answer in self.server.authority.answer(wire, tcp=True):
                    self.wfile.write(len(answer).to_bytes(2, "big") + answer)
        except OSError:
            return  # the client went, or said nothing for too long


def _bind(listen: tuple[str, int], authority: Authority) -> tuple[_UdpServer, _TcpServer]:
    tries_left = 1 if listen[1] else _BIND_TRIES
    while True:
        tries_left -= 1
        udp = _UdpServer(listen, _UdpHandler)
        try:
            tcp = _TcpServer((listen[0], udp.server_address[1]), _TcpHandler)
        except OSError:
            udp.server_close()
            if not tries_left:
                raise
            continue
        udp.authority = tcp.authority = authority
        return udp, tcp


def _load(path: Path) -> dns.zone.Zone:
    try:
        return load_zone(path)
    except ZoneError as error:
        raise Exit(os.EX_DATAERR, f"{path}: {error}") from error


def _reload(server: NameServer, paths: Sequence[Path]) -> None:
    try:
        server.authority.serve([_load(path) for path in paths])
        log.event(_log, "reloaded", files=",".join(map(str, paths)))
    except (Exit, OSError) as error:
        log.event(_log, "failed", level=logging.ERROR, reason=error, doing="reload, still serving the old zones")


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--zone", "paths", type=click.Path(path_type=Path), multiple=True, required=True, help="A zone file.")
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="IPv4 address and port; port 0: a free one.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@cli.one_sentence
def main(paths: tuple[Path, ...], listen: str, command: tuple[str, ...]) -> None:
    """Serve zone files until SIGTERM; or only while COMMAND runs, which finds this server in STUBMAIL_DNS_RESOLVER.

    \b
    python -m stubmail.testing.nameserver --zone dns/zone.example --listen 127.0.0.1:5300
    python -m stubmail.testing.nameserver --zone dns/zone.example -- stubmail dns check alpha.example --allow-private
    """
    log.setup()
    host, port = cli.parse_listen(listen)
    zones = [_load(path) for path in paths]
    if not command:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # before any thread starts, so that none of them gets one
    try:
        server = NameServer(zones, (host, port))
    except OSError as error:
        raise cli.listening_error(error, host, port) from error
    with server:
        if command:
            environment = os.environ | {"STUBMAIL_DNS_RESOLVER": "{}:{}".format(*server.address)}
            sys.exit(subprocess.run(command, env=environment, check=False).returncode)
        click.echo("listening on {}:{}".format(*server.address))
        while signal.sigwait(SIGNALS) == signal.SIGHUP:
            _reload(server, paths)


if __name__ == "__main__":
    main()
