"""Connections to the smarthost that are kept for the next message: reaching it, TLS and the login cost round trips."""

import smtplib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from services.smtp2stub.relay import end

IDLE_SECONDS = 10.0  # then we say QUIT: servers want to decide about their connections, too
MOST_USES = 100  # messages over one connection, so that a smarthost of several machines shares the load
ALIVE_SECONDS = 10.0  # for the answer that says so


@dataclass(slots=True)
class _Idle:
    client: smtplib.SMTP
    uses: int
    until: float


class Connections:
    """Lends connections that ``connect`` made; for any number of threads, each of which has its own."""

    def __init__(self, connect: Callable[[], smtplib.SMTP], clock: Callable[[], float] = time.monotonic) -> None:
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: deque[_Idle] = deque()  # the one that was used last at the end
        self._uses: dict[smtplib.SMTP, int] = {}  # of those that are lent

    def take(self) -> smtplib.SMTP:
        """Return a connection that is ready for mail. Raises StubmailError when there is none to be had."""
        while (idle := self._pop()) is not None:
            if _is_alive(idle.client):
                self._uses[idle.client] = idle.uses
                return idle.client
            end(idle.client)  # it has been idle for too long, the server thinks
        client = self._connect()
        self._uses[client] = 0
        return client

    def give(self, client: smtplib.SMTP, *, good: bool) -> None:
        """Take a connection back; ``good``: its last transaction has come to an end."""
        uses = self._uses.pop(client) + 1
        if good and uses < MOST_USES and client.sock is not None:
            with self._lock:
                self._idle.append(_Idle(client, uses, self._clock() + IDLE_SECONDS))
        else:
            end(client)

    def close_idle(self, *, every: bool = False) -> None:
        """End those that nobody has used for a while, or all that nobody uses now."""
        while (idle := self._pop(oldest=True, before=None if every else self._clock())) is not None:
            end(idle.client)

    def _pop(self, *, oldest: bool = False, before: float | None = None) -> _Idle | None:
        with self._lock:
            if not self._idle or (before is not None and self._idle[0].until > before):
                return None
            return self._idle.popleft() if oldest else self._idle.pop()


def _is_alive(client: smtplib.SMTP) -> bool:
    try:
        if client.sock is not None:
            client.sock.settimeout(ALIVE_SECONDS)
        return client.rset()[0] == 250  # which also ends what a refused transaction has left
    except OSError:
        return False
