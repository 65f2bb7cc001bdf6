"""What a connection needs of the server around it."""

import ssl
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Protocol

from services.pop3d.ahead import Ahead
from services.pop3d.arrivals import Arrivals
from services.pop3d.busy_poll import BusyPoll
from services.pop3d.login import Door
from services.pop3d.patience import Patience
from services.pop3d.terms import Terms
from stubmail.counters import Counters

if TYPE_CHECKING:
    from services.pop3d.connection import Connection


class Host(Protocol):
    """The server, as its connections see it."""

    ahead: Ahead
    arrivals: Arrivals
    busy_poll: BusyPoll
    counters: Counters
    door: Door
    patience: Patience
    jobs: int
    """How many connections have work done in threads at this moment; they count themselves."""

    @property
    def mail(self) -> Executor:
        """The threads that read and write maildrops."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The certificate in use now, for new TLS sessions; None when there is none."""

    def terms(self, local: bool) -> Terms:
        """Return the terms for a new session of a client on this machine, or another."""

    def enter(self, connection: "Connection") -> str:
        """Count a new connection; returns why it cannot stay, or an empty text."""

    def logged_in(self, connection: "Connection") -> None:
        """Note that a connection's client is no stranger any more."""

    def leave(self, connection: "Connection") -> None:
        """Forget a connection: it is closed, and its maildrop too."""
