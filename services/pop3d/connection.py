"""One connection: carries octets between a client and its session, and carries out what the session asks for."""

import asyncio
import logging
import math
import secrets
import ssl
import sys
from typing import cast

from services.pop3d.actions import Action, Close, StartTls
from services.pop3d.channel import Channel
from services.pop3d.counting import count_end
from services.pop3d.errands import Errands
from services.pop3d.host import Host
from services.pop3d.listening import peer_of
from services.pop3d.login import Elsewhere, Handed
from services.pop3d.patience import LINGER, Deadlines
from services.pop3d.session import Session
from services.pop3d.wire import err
from stubmail.limits import is_loopback, network
from stubmail.log import event

MAX_PENDING = 65_536  # octets of commands that wait; then the client is not read until they are fewer
TURN = 64  # actions of one session before the others have theirs
TURN_OCTETS = 8_192  # and so many octets of replies
NONCE_SIZE = 18  # octets of chance in each challenge
QUIET = 60.0  # seconds without a command; then what was read ahead is let go
REST = 0.001  # seconds between turns while others have work done in threads

logger = logging.getLogger("pop3d")


def _fresh() -> str:
    return secrets.token_urlsafe(NONCE_SIZE)


class Connection(asyncio.Protocol):
    """One client's connection; ``implicit_tls``: TLS comes before the greeting (RFC 8314 §3).

    ``address``: the client's, when it is not the peer's.
    """

    __slots__ = (
        "_channel",
        "_closing",
        "_deadlines",
        "_errands",
        "_half_closed",
        "_handed_over",
        "_host",
        "_implicit_tls",
        "_loop",
        "_made",
        "_paused",
        "_reason",
        "_session",
        "_turn",
        "address",
        "counted",
        "due",
        "id",
        "local",
        "lost",
        "network",
    )

    def __init__(self, host: Host, implicit_tls: bool, address: str = "") -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._implicit_tls = implicit_tls
        self.id = secrets.token_hex(4)
        self.local = False  # on this machine
        self.counted = True  # among the sessions of its network
        self.address = address
        self.network = self._reason = ""
        self._paused: asyncio.Future[None] | None = None
        self._turn: asyncio.Handle | None = None  # the next one, when the last was used up
        self._half_closed = self._closing = self._handed_over = self.lost = False

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._channel = Channel(cast(asyncio.Transport, transport))
        self.address = sys.intern(self.address or peer_of(transport))  # many come from few
        self.network, self.local = sys.intern(network(self.address)), is_loopback(self.address)
        self._made = self._loop.time()
        self._deadlines = Deadlines(self._host.patience, self._made)
        self._session = Session(
            self._host.terms(self.local),
            encrypted=self._implicit_tls,
            fresh=_fresh,
            binding=self._channel.binding,
        )
        self._errands = Errands(self._host, self, self._session)
        self.due = self._made + self._host.patience.login  # when to look whether a deadline has passed
        self._host.arrivals.note(self.id, self._made)
        self._host.counters.add("connections pop3s" if self._implicit_tls else "connections pop3")
        self._begin()

    def _begin(self) -> None:
        if refusal := self._host.enter(self):
            self.end(refusal, b"" if self._implicit_tls else err("Too many sessions, try again later", "SYS/TEMP"))
        elif self._implicit_tls:
            self._begin_tls()
        self._pump()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return  # see Channel.finish
        if not self._session.logged_in:
            self._host.arrivals.note(self.id, self._loop.time())
        handshaking = self._channel.handshaking
        try:
            self._session.receive(self._channel.receive(data))
        except ssl.SSLError as error:
            event(logger, "refused", self.id, address=self.address, reason=f"TLS: {error.reason or error}")
            self.end("TLS failed")
            return
        if handshaking and not self._channel.handshaking:
            self._session.tls_started()
        self._half_closed = self._half_closed or self._channel.ended
        if self._session.pending > MAX_PENDING or (self._paused is not None and self._channel.under_tls):
            self._channel.pause_reading()  # TLS may answer by itself, and what it says must not pile up
        self._pump()

    def eof_received(self) -> bool:
        self._half_closed = True
        if self._channel.handshaking:
            self.end("hung up")
        self._pump()
        return not self._closing  # what was asked for is still answered

    def pause_writing(self) -> None:
        self._paused = self._loop.create_future()
        self.look()

    def resume_writing(self) -> None:
        self._wake()
        self._deadlines.active(self._loop.time())
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost:
            self.lost = self._closing = True
            self.due = math.inf
            self._wake()
            self._release()

    # What the server calls

    def end(self, reason: str, reply: bytes = b"") -> None:
        """Send the last words and close, once."""
        if self._closing:
            return
        self.write([reply])
        self._closing = True
        self._reason = reason
        self._channel.finish(bool(self._channel.received) and not self._half_closed and not reason.startswith("quit"))
        self.due = self._loop.time() + LINGER

    def abort(self, reason: str) -> None:
        """Close without another word."""
        self._closing = True
        self._reason = self._reason or reason
        self._channel.abort()

    def drain(self) -> None:
        """Send strangers away; who is logged in may go on for now."""
        if self._session.logged_in:
            return
        if not self._errands.busy:
            self.end("the server stops", err("The server stops, try again later", "SYS/TEMP"))
        else:
            self._errands.cancel()
            self.abort("the server stops")

    @property
    def committing(self) -> bool:
        """Whether messages are being removed, or the maildrop is being closed, at this moment; perhaps elsewhere."""
        return self._errands.committing or self._handed_over

    # What errands call

    def write(self, out: list[bytes]) -> None:
        """Send octets; behind the last words they go nowhere."""
        if out and not self._closing and (data := b"".join(out)):
            self._deadlines.active(self._loop.time())
            self._channel.write(data)

    async def writable(self) -> None:
        """Wait until the client takes more."""
        if self._paused is not None:
            await self._paused

    def opened(self) -> None:
        """Note that the client has logged in."""
        self._host.logged_in(self)
        now = self._loop.time()
        self._deadlines.active(now)
        self.due = min(self.due, now + self._host.patience.idle)

    def hand_over(self, elsewhere: Elsewhere) -> None:
        """Let another process go on with the session; the channel is its business from here on."""
        if self._closing:
            elsewhere.close()
            return
        self._closing = self._handed_over = True
        self.due = math.inf
        self._host.logged_in(self)
        mechanism = self._session.statistics.mechanism
        handed = Handed(mechanism, self._session.encrypted, self._session.unread, lambda: self._host.leave(self))
        elsewhere.take(self._channel, handed)

    def errand_done(self, failed: bool) -> None:
        """Go on, or break off."""
        if failed:
            self.abort("failed")
        if self.lost:
            self._release()
        else:
            self._pump()

    # From the session's actions to octets

    def _pump(self) -> None:
        """Carry out what the session asks for until it waits, the client is slow, or it is the others' turn."""
        out: list[bytes] = []
        size = turn = 0
        waits, idle = self._waits(), False
        while not waits:
            if turn == TURN or size >= TURN_OCTETS:
                # An event loop that never rests starves the threads at work for others: they must get hold of
                # Python's global lock again and again.
                others = self._host.jobs or self._host.arrivals.others(self.id, self._loop.time())
                rest = REST if others else 0
                self._turn = self._loop.call_later(rest, self._next_turn)
                break
            turn += 1
            action = self._errands.next()
            if isinstance(action, bytes):
                out.append(action)
                size += len(action)
                continue
            if action is None:
                idle = True
                break
            self.write(out)
            out = []
            self._perform(action)
            waits = self._waits()
        self.write(out)
        if idle and self._half_closed:
            self.end("hung up")
        stopped = self._closing or self._paused is not None
        if self._channel.paused and not stopped and self._session.pending < MAX_PENDING // 2:
            self._channel.resume_reading()

    def _next_turn(self) -> None:
        self._turn = None
        self._pump()

    def _waits(self) -> bool:
        busy = self._errands.busy or self._turn is not None
        return busy or self._paused is not None or self._closing or self._channel.handshaking

    def _perform(self, action: Action) -> None:
        match action:
            case StartTls():
                self._begin_tls()
            case Close():
                self.end(action.reason)
            case _:
                self._errands.begin(action)

    def _begin_tls(self) -> None:
        context = self._host.tls
        assert context is not None
        self._channel.begin_tls(context)

    # Ends

    def look(self) -> None:
        """End the session when it has lasted long enough, or say when to look again."""
        if self.lost:
            return
        unsent = self._channel.unsent()
        if self._closing and not unsent:
            self.abort("")
            return
        now = self._loop.time()
        reason, due = self._deadlines.check(
            now,
            logged_in=self._session.logged_in,
            busy=self._errands.busy,
            written=self._channel.written,
            unsent=unsent,
        )
        self.due = min(due, now + QUIET)
        if reason:
            self.abort(reason)  # RFC 1939 §3: without a reply, without removing messages
        elif self._deadlines.idle(now) >= QUIET:
            self._errands.rest()

    def _wake(self) -> None:
        if self._paused is not None:
            self._paused.set_result(None)
            self._paused = None

    def _release(self) -> None:
        """Let go of the maildrop, then of everything."""
        if self._handed_over or not self._errands.finish():
            return
        statistics, reason = self._session.statistics, self._reason or "connection lost"
        count_end(self._host.counters, reason, statistics, self._channel.received, self._channel.written)
        event(
            logger,
            "ended",
            self.id,
            user=self._errands.user or None,
            mechanism=statistics.mechanism or None,
            address=self.address,
            tls=self._session.encrypted,
            reason=reason,
            retr=f"{statistics.retrieved}/{statistics.retrieved_octets}",
            top=statistics.tops,
            dele=f"{statistics.deleted}/{statistics.messages}",
            size=statistics.octets,
            received=self._channel.received,
            sent=self._channel.written,
            seconds=f"{self._loop.time() - self._made:.3f}",
        )
        self._host.leave(self)
