"""A session that goes on in a process of its own: the connection, and the host that it is the only guest of."""

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.pop3d.ahead import Ahead
from services.pop3d.arrivals import Arrivals
from services.pop3d.busy_poll import BusyPoll
from services.pop3d.clock import Clock
from services.pop3d.connection import Connection
from services.pop3d.counting import make_counters
from services.pop3d.login import Door
from services.pop3d.maildrop import Maildrop
from services.pop3d.patience import Patience
from services.pop3d.settings import Pop3d
from services.pop3d.system.calls import HandOver, Login
from services.pop3d.terms import Terms


@dataclass(frozen=True, slots=True)
class Opened:
    """Whose session it is, and what is open for it."""

    user: str
    maildrop: Maildrop
    login: Login
    handed: HandOver


class OnlyHost:
    """The host (services.pop3d.host.Host) of one connection."""

    door: Door  # is behind it: nobody logs in here
    tls: ssl.SSLContext | None = None

    def __init__(self, settings: Pop3d) -> None:
        self._settings = settings
        self.patience = Patience(settings.login_seconds, settings.idle_seconds, settings.write_seconds)
        self.mail = ThreadPoolExecutor(1, thread_name_prefix="mail")
        self.counters = make_counters()
        self.jobs = 0
        self.arrivals = Arrivals()
        self.busy_poll = BusyPoll(lambda: self.jobs)
        self.ahead = Ahead()
        self._connections: set[Connection] = set()
        self._clock = Clock(self._connections, self.patience.often)
        self.left = asyncio.Event()

    def terms(self, local: bool) -> Terms:
        """Return the terms that the session began with, as far as they matter after login."""
        return Terms(login_delay=self._settings.login_delay_seconds, expire=self._settings.expire_days)

    def enter(self, connection: Connection) -> str:
        """It has been counted where it came from."""
        self._connections.add(connection)
        self._clock.start()
        return ""

    def logged_in(self, connection: Connection) -> None:
        """It has been."""

    def leave(self, connection: Connection) -> None:
        """The session is over."""
        self._connections.clear()
        self.left.set()


class Resumed(Connection):
    """A connection whose client has been greeted and logged in by another process."""

    __slots__ = ("_opened",)

    def __init__(self, host: OnlyHost, opened: Opened) -> None:
        super().__init__(host, opened.handed.encrypted, opened.login.address)
        self.id = opened.login.session
        self._opened = opened

    def _begin(self) -> None:
        opened = self._opened
        self._host.enter(self)
        self._session.next()  # the greeting
        self._session.statistics.mechanism = opened.handed.mechanism
        self._session.receive(opened.handed.octets.encode("latin-1"))
        self._errands.opened(opened.user, opened.maildrop)
        self._pump()
