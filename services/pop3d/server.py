"""The server: listening sockets, thread pools, all connections, and what signals do to them."""

import asyncio
import logging
import os
import ssl
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from services.pop3d.connection import Connection
from services.pop3d.index_cache import IndexCache
from services.pop3d.listening import bind, name_of
from services.pop3d.locations import parse_location
from services.pop3d.login import Door, Rules
from services.pop3d.patience import Patience
from services.pop3d.preamble import Preamble
from services.pop3d.settings import Pop3d
from services.pop3d.terms import Terms
from services.pop3d.tls import load_certificate
from services.pop3d.verifier import Verifier
from stubmail.cli import parse_listen
from stubmail.errors import Exit
from stubmail.limits import FailureDelays, SessionLimit
from stubmail.log import event
from stubmail.users import Users, load_users

BACKLOG = 512
FORGET_SECONDS = 30.0  # a network's count of failures halves in that time

T = TypeVar("T")

logger = logging.getLogger("pop3d")


class Server:
    """All sessions of this process; it is the Host of its connections."""

    def __init__(self, settings: Pop3d, users: Users, tls: ssl.SSLContext | None) -> None:
        self._settings = settings
        self._tls = tls
        self.patience = Patience(settings.login_seconds, settings.idle_seconds, settings.write_seconds)
        self.mail = ThreadPoolExecutor(settings.threads, thread_name_prefix="mail")
        self._passwords = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="password")
        delays = settings.failure_delay_seconds, settings.failure_delay_longest, FORGET_SECONDS
        rules = Rules(FailureDelays(*delays), FailureDelays(*delays), settings.login_delay_seconds)
        indexes = IndexCache()
        self.door = Door(
            users, rules, self._passwords, self.mail, lambda maildrop: parse_location(maildrop, indexes).open()
        )
        self._limit = SessionLimit(settings.sessions_per_address)
        self.jobs = 0
        self._connections: set[Connection] = set()
        self._strangers: OrderedDict[Connection, None] = OrderedDict()
        self._listeners: list[asyncio.Server] = []
        self._nobody_left = asyncio.Event()
        self._nobody_left.set()

    # For connections

    def terms(self, local: bool) -> Terms:
        """Return the terms for a new session of a client on this machine, or another."""
        return Terms(
            tls_offered=self._tls is not None,
            plain_allowed=self._settings.allow_plain_loopback if local else self._settings.allow_plain,
            challenges=self.door.verifier.challenges,
            mechanisms=self.door.verifier.mechanisms,
            login_delay=self._settings.login_delay_seconds,
            expire=self._settings.expire_days,
        )

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The certificate in use now; None when there is none."""
        return self._tls

    def enter(self, connection: Connection) -> str:
        """Count a new connection; returns why it cannot stay, or an empty text.

        When all places are taken, the stranger who has been here longest without logging in makes room: sessions that
        only hold their place cannot keep the others out.
        """
        self._connections.add(connection)
        self._nobody_left.clear()
        if not connection.local and not self._limit.enter(connection.network):
            connection.counted = False
            return "too many sessions of this address"
        if len(self._connections) > self._settings.sessions:
            if not self._strangers:
                return "too many sessions"
            oldest, _ = self._strangers.popitem(last=False)
            oldest.abort("made room")
        self._strangers[connection] = None
        return ""

    def logged_in(self, connection: Connection) -> None:
        """Note that a connection's client is no stranger any more."""
        self._strangers.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """Forget a connection: it is closed, and its maildrop too."""
        self._strangers.pop(connection, None)
        self._connections.discard(connection)
        if connection.counted and not connection.local:
            self._limit.leave(connection.network)
        if not self._connections:
            self._nobody_left.set()

    # For the process

    async def start(self) -> None:
        """Listen. Raises Exit when an address cannot be had; then none is listened on."""
        addresses = [(self._settings.listen, 110, False), (self._settings.tls_listen, 995, True)]
        bound = []
        try:
            for text, port, implicit_tls in addresses:
                if text:
                    bound += [(one, implicit_tls) for one in bind(*parse_listen(text, port))]
        except Exit:
            for one, _ in bound:
                one.close()
            raise
        loop = asyncio.get_running_loop()
        for one, implicit_tls in bound:
            connect: Callable[..., asyncio.Protocol] = partial(Connection, self, implicit_tls)
            factory = partial(Preamble, self._settings.networks, connect) if self._settings.proxies else connect
            self._listeners.append(await loop.create_server(factory, sock=one, backlog=BACKLOG))
            event(logger, "listening", address=name_of(one), tls=implicit_tls)

    async def reload(self) -> None:
        """Read the users file and the certificate again; what cannot be read stays as it was. Sessions go on."""
        settings = self._settings
        read_users = partial(_read_users, settings.users)
        self.door.verifier = await self._read_again(settings.users, read_users, self.door.verifier)
        load = partial(load_certificate, settings.tls_cert, settings.tls_key)
        self._tls = await self._read_again(settings.tls_cert, load, self._tls)

    async def _read_again(self, what: object, load: Callable[[], T], old: T) -> T:
        try:
            value = await asyncio.get_running_loop().run_in_executor(self._passwords, load)
        except Exit as error:
            event(logger, "not-reloaded", level=logging.ERROR, file=what, reason=error.text)
            return old
        event(logger, "reloaded", file=what)
        return value

    async def drain(self) -> None:
        """Stop: no new sessions; strangers go, the others may end theirs for a while; nothing is left half done."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.drain()
        try:
            await asyncio.wait_for(self._nobody_left.wait(), self._settings.drain_seconds)
        except TimeoutError:
            for connection in list(self._connections):
                if not connection.committing:
                    connection.abort("the server stops")
            await self._nobody_left.wait()
        self.mail.shutdown()
        self._passwords.shutdown()


def _read_users(path: Path) -> Verifier:
    return Verifier(load_users(path))
