"""The receiver: listens, keeps the dialogs going, and ends without cutting off a message."""

import asyncio
import logging
import resource
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import uvloop

from services.smtp2stub.acceptance import Acceptance
from services.smtp2stub.authentication import Authenticator
from services.smtp2stub.counters import Counters
from services.smtp2stub.intake import Intake
from services.smtp2stub.lmtp import LmtpDialog, listening_socket
from services.smtp2stub.session import Dialog
from services.smtp2stub.settings import Smtp2stub
from services.smtp2stub.status import Status
from stubmail.admin import Admin
from stubmail.cli import listening_error, parse_listen
from stubmail.errors import Exit
from stubmail.limits import FailureDelays
from stubmail.log import event
from stubmail.queue import Queue
from stubmail.settings import ConfigError
from stubmail.users import load_users

BACKLOG = 512
HANDSHAKE_SECONDS = 10.0
FORGET_SECONDS = 600.0  # in which a count of failed logins halves
PASSWORD_THREADS = 2
SPARE_FILES = 100

_log = logging.getLogger("smtp2stub.receiver")


def run(host: str, options: Smtp2stub, admin: socket.socket | None = None) -> None:
    """Receive mail until SIGTERM; SIGHUP reads users and TLS certificate anew. ``host`` is our name. Raises Exit."""
    uvloop.run(Receiver(host, options, admin).run())


class Receiver:
    """The process as one object."""

    def __init__(self, host: str, options: Smtp2stub, admin: socket.socket | None = None) -> None:
        self._host = host
        self._listener = admin
        self._options = options
        self._tls = tls_context(options)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises Exit when that cannot be begun."""
        options = self._options
        spool = Queue(options.spool)
        spool.create()
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        delays = FailureDelays(options.failure_delay_seconds, options.failure_delay_longest, FORGET_SECONDS)
        _allow_files(options.connection_limit)
        with ExitStack() as resources:
            resources.enter_context(spool.lock("receiver"))
            passwords = resources.enter_context(ThreadPoolExecutor(PASSWORD_THREADS, "passwords"))
            counters = Counters(spool.root)
            resources.callback(counters.close)
            spool.clean_incoming()
            intake = Intake(spool, options.reserve_bytes, counters)
            authenticator = Authenticator(load_users(options.users), delays, passwords)
            acceptance = Acceptance(self._host, options, authenticator, intake, spool.incoming, counters=counters)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stopped.set)
            loop.add_signal_handler(signal.SIGHUP, self._reload, authenticator)
            try:
                servers = await self._listen(acceptance)  # who reads that it listens may send signals
                if self._listener is not None:
                    status = Status(spool, counters, options.reserve_bytes, lambda: acceptance.draining)
                    admin = Admin(self._listener, status.pages)
                    admin.start()
                    resources.callback(admin.stop)
                await stopped.wait()
                await self._drain(servers, acceptance)
            finally:
                await asyncio.to_thread(intake.close)

    async def _listen(self, acceptance: Acceptance) -> list[asyncio.Server]:
        """Open the listening sockets. Raises Exit."""
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []
        for text, implicit in ((self._options.listen, False), (self._options.tls_listen, True)):
            if not text:
                continue
            host, port = parse_listen(text)
            try:
                server = await loop.create_server(
                    partial(Dialog, acceptance, self._tls, loop, implicit),
                    host,
                    port,
                    ssl=self._tls if implicit else None,
                    # nobody counts a connection before its handshake is over
                    ssl_handshake_timeout=HANDSHAKE_SECONDS if implicit else None,
                    backlog=BACKLOG,
                )
            except OSError as error:
                raise listening_error(error, host, port) from error
            servers.append(server)
            for sock in server.sockets:
                name = sock.getsockname()
                event(_log, "listening", address=f"{name[0]}:{name[1]}", tls="implicit" if implicit else None)
        if self._options.lmtp_listen:
            servers.append(await self._listen_lmtp(acceptance))
        return servers

    async def _listen_lmtp(self, acceptance: Acceptance) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        listener = listening_socket(self._options.lmtp_listen)
        name = listener.getsockname()
        event(_log, "listening", lmtp=name if isinstance(name, str) else f"{name[0]}:{name[1]}")
        dialog = partial(LmtpDialog, acceptance, loop)
        if listener.family == socket.AF_UNIX:
            return await loop.create_unix_server(dialog, sock=listener, backlog=BACKLOG)
        return await loop.create_server(dialog, sock=listener, backlog=BACKLOG)

    async def _drain(self, servers: list[asyncio.Server], acceptance: Acceptance) -> None:
        """Let messages under way come to their end, for a while; whoever connects meanwhile is told to come later."""
        acceptance.draining = True
        for connection in list(acceptance.connections):
            connection.drain()
        if acceptance.connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(acceptance.empty.wait(), self._options.drain_seconds)
        for server in servers:
            server.close()
        event(_log, "stopped", open=len(acceptance.connections) or None, **acceptance.counters.snapshot())

    def _reload(self, authenticator: Authenticator) -> None:
        """Read users and certificate anew; what cannot be read leaves the old ones in use."""
        try:
            users = load_users(self._options.users)
            if self._tls is not None:
                tls_context(self._options)  # a pair that does not fit would leave half of itself in the one in use
                _load_certificate(self._tls, self._options)
            authenticator.replace(users)
        except Exit as error:
            event(_log, "refused", level=logging.ERROR, reason=error.text)
        else:
            event(_log, "reloaded", users=len(authenticator.users))


def _allow_files(connections: int) -> None:
    """Raise the limit of open files, as far as we may: each connection needs one, and one more for a large message."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


def tls_context(options: Smtp2stub) -> ssl.SSLContext | None:
    """Return the server's TLS context; None when no certificate is configured. Raises ConfigError."""
    if options.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, options)
    return context


def _load_certificate(context: ssl.SSLContext, options: Smtp2stub) -> None:
    assert options.tls_cert is not None
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        paths: list[Path | None] = [options.tls_cert, options.tls_key]
        raise ConfigError(f"cannot use {' and '.join(map(str, paths))}: {error.strerror or error}") from error
