"""The server: listening sockets, thread pools, all connections, and what signals do to them."""

import asyncio
import logging
import math
import os
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from services.pop3d.accounts import accounts_file, load_accounts
from services.pop3d.ahead import Ahead
from services.pop3d.arrivals import Arrivals
from services.pop3d.busy_poll import BusyPoll
from services.pop3d.clock import Clock
from services.pop3d.connection import Connection
from services.pop3d.counting import make_counters
from services.pop3d.index_cache import IndexCache
from services.pop3d.listening import bind, name_of
from services.pop3d.locations import parse_location
from services.pop3d.login import Door, Rules
from services.pop3d.patience import Patience
from services.pop3d.preamble import Preamble
from services.pop3d.settings import Pop3d
from services.pop3d.status import Status
from services.pop3d.terms import Terms
from services.pop3d.tls import ServerContext, load_certificate
from services.pop3d.verifier import Verifier
from stubmail.admin import Admin
from stubmail.cli import parse_listen
from stubmail.errors import Exit
from stubmail.limits import FailureDelays, SessionLimit
from stubmail.log import event
from stubmail.users import Users

BACKLOG = 512
FORGET_SECONDS = 30.0  # a network's count of failures halves in that time

T = TypeVar("T")
Bound = tuple[socket.socket, bool]  # and whether TLS comes before the greeting

logger = logging.getLogger("pop3d")
admin_logger = logging.getLogger("pop3d.admin")


def bind_all(settings: Pop3d) -> list[Bound]:
    """Bind all addresses. Raises Exit when one cannot be had; then none is bound."""
    bound: list[Bound] = []
    try:
        for text, port, implicit_tls in ((settings.listen, 110, False), (settings.tls_listen, 995, True)):
            if text:
                bound += [(one, implicit_tls) for one in bind(*parse_listen(text, port))]
    except Exit:
        for one, _ in bound:
            one.close()
        raise
    return bound


class Server:
    """All sessions of this process; it is the Host of its connections."""

    def __init__(self, settings: Pop3d, users: Users, tls: ServerContext | None) -> None:
        self._settings = settings
        self._tls = tls
        self.patience = Patience(settings.login_seconds, settings.idle_seconds, settings.write_seconds)
        self.mail = ThreadPoolExecutor(settings.threads, thread_name_prefix="mail")
        self._passwords = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="password")
        delays = settings.failure_delay_seconds, settings.failure_delay_longest, FORGET_SECONDS
        self._rules = Rules(FailureDelays(*delays), FailureDelays(*delays), settings.login_delay_seconds)
        indexes = IndexCache()
        self.counters = make_counters()
        self.door = Door(
            users,
            self._rules,
            self._passwords,
            self.mail,
            lambda maildrop: parse_location(maildrop, indexes).open(),
            alarm=lambda: self.counters.add("attacks"),
        )
        self._limit = SessionLimit(settings.sessions_per_address)
        self.jobs = 0
        self.arrivals = Arrivals()
        self.busy_poll = BusyPoll(lambda: self.jobs)
        self.ahead = Ahead()
        self.draining = False
        self._connections: set[Connection] = set()
        self._clock = Clock(self._connections, self.patience.often)
        self._terms: dict[Terms, Terms] = {}  # those in use: sessions share them
        self._strangers: OrderedDict[Connection, None] = OrderedDict()
        self._listeners: list[asyncio.Server] = []
        self._admins: list[Admin] = []
        self._not_reloaded: dict[object, str] = {}
        self._reloading = asyncio.Lock()
        self._nobody_left = asyncio.Event()
        self._nobody_left.set()

    # For whoever asks how it is

    @property
    def sessions(self) -> int:
        """How many there are."""
        return len(self._connections)

    @property
    def strangers(self) -> int:
        """How many of them have not logged in."""
        return len(self._strangers)

    @property
    def certificate_expires(self) -> float:
        """When, in Unix time; infinite when there is no certificate."""
        return self._tls.expires if self._tls is not None else math.inf

    @property
    def not_reloaded(self) -> str:
        """What could not be read again at the last SIGHUP, and why; an empty text when all could."""
        return "; ".join(self._not_reloaded.values())

    # For connections

    def terms(self, local: bool) -> Terms:
        """Return the terms for a new session of a client on this machine, or another."""
        terms = Terms(
            tls_offered=self._tls is not None,
            plain_allowed=self._settings.allow_plain_loopback if local else self._settings.allow_plain,
            challenges=self.door.verifier.challenges,
            mechanisms=self.door.verifier.mechanisms,
            login_delay=self._settings.login_delay_seconds,
            expire=self._settings.expire_days,
        )
        return self._terms.setdefault(terms, terms)

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
        self._clock.start()
        self._nobody_left.clear()
        if self.draining:  # its proxy was slow
            connection.counted = False
            return "the server stops"
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

    async def start(self, bound: Sequence[Bound] | None = None) -> None:
        """Listen, on sockets that are ``bound`` already if there are. Raises Exit as bind_all does."""
        loop = asyncio.get_running_loop()
        for one, implicit_tls in bind_all(self._settings) if bound is None else bound:
            connect: Callable[..., asyncio.Protocol] = partial(Connection, self, implicit_tls)
            factory = partial(Preamble, self._settings.networks, connect) if self._settings.proxies else connect
            self._listeners.append(await loop.create_server(factory, sock=one, backlog=BACKLOG))
            event(logger, "listening", address=name_of(one), tls=implicit_tls)
        self._observe(loop)

    def _observe(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer whoever asks how the server is; that nobody can ask is no reason to serve no mail."""
        if not self._settings.admin_listen:
            return
        try:
            bound = bind(*parse_listen(self._settings.admin_listen))
        except Exit as error:
            event(admin_logger, "failed", level=logging.ERROR, reason=error.text)
            return
        pages = Status(self, loop, time.time()).pages
        for one in bound:
            one.listen()
            self._admins.append(Admin(one, pages))
            self._admins[-1].start()
            event(admin_logger, "listening", address=name_of(one))

    async def reload(self) -> None:
        """Read the users file and the certificate again; what cannot be read stays as it was. Sessions go on."""
        settings = self._settings
        accounts, certificate = accounts_file(settings), settings.tls_cert
        async with self._reloading:  # in the order of the signals
            read_users = partial(_read_users, settings)
            self.door.verifier = await self.read_again(accounts, read_users, self.door.verifier)
            load = partial(load_certificate, certificate, settings.tls_key)
            self._tls = await self.read_again(certificate, load, self._tls)
            self.tell_reloaded(accounts, certificate)

    async def read_again(self, what: object, load: Callable[[], T], old: T) -> T:
        """Return what ``load`` reads from the file ``what``, or ``old`` when that is wrong."""
        try:
            value = await asyncio.get_running_loop().run_in_executor(self._passwords, load)
        except Exit as error:
            self._not_reloaded[what] = error.text
            return old
        self._not_reloaded.pop(what, None)
        return value

    def tell_reloaded(self, *files: object) -> None:
        """Log whether these could be read again, in one line for one signal."""
        wrong = [what for what in files if what in self._not_reloaded]
        names = ", ".join(str(what) for what in wrong or files if what is not None)
        if wrong:
            event(logger, "not-reloaded", level=logging.ERROR, file=names, reason=self.not_reloaded)
        else:
            event(logger, "reloaded", file=names)

    async def drain(self) -> None:
        """Stop: no new sessions; strangers go, the others may end theirs for a while; nothing is left half done."""
        self.draining = True
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
        for admin in self._admins:
            admin.stop()
        self.mail.shutdown()
        self._passwords.shutdown()


def _read_users(settings: Pop3d) -> Verifier:
    return Verifier(load_accounts(settings))
