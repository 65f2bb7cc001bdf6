"""One session with a server: commands and their replies over a connection, each with its limit in time and size."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from commands.popcl import listings
from commands.popcl.connection import Connection
from commands.popcl.mechanisms import Mechanism, MechanismError
from commands.popcl.protocol import Challenge, Client, Data, End, Event, Expect, ProtocolError, Status
from stubmail.errors import PermanentError, StubmailError, TemporaryError

WINDOW = 32  # commands that are sent ahead of their replies where the server offers PIPELINING
MAX_CHALLENGES = 5  # of one AUTH
_LATER = (b"[IN-USE]", b"[LOGIN-DELAY]", b"[SYS/TEMP]")  # RFC 2449 §8.1, RFC 3206 §4


@dataclass(frozen=True)
class Limits:
    """How long a server may take, in seconds, and how large a message may be, in octets."""

    silence: float = 180.0  # without an octet
    reply: float = 360.0  # until a status line is whole
    session: float = 86_400.0  # all together
    message: int = 4 * 2**30


class Session:
    """A POP3 session, after the server's greeting. Raises StubmailError and ProtocolError everywhere."""

    def __init__(self, connection: Connection, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.connection = connection
        self.limits = limits
        self._clock = clock
        self._end = clock() + limits.session
        self._client = Client()
        self.capabilities: dict[str, tuple[str, ...]] = {}
        greeting = self._status()
        if not greeting.ok:
            raise refusal(greeting, "the server sends us away", TemporaryError)
        self.greeting = greeting.text

    def command(self, line: str) -> Status:
        """Send a command and return its status line."""
        self._send([line], Expect.LINE)
        return self._status()

    def require(self, line: str, what: str) -> Status:
        """Send a command that must succeed; ``what`` the server refuses otherwise."""
        status = self.command(line)
        if not status.ok:
            raise refusal(status, f"the server refuses {what}")
        return status

    def secure(self, start: Callable[[], None]) -> None:
        """Go over to TLS by STLS (RFC 2595 §4); ``start`` does the handshake."""
        status = self.command("STLS")
        if not status.ok:
            raise refusal(status, "the server does not do STLS")
        if not self._client.quiet:
            raise ProtocolError("octets came in the clear behind the answer to STLS: somebody may have put them there")
        start()

    def ask_capabilities(self) -> None:
        """Learn what the server offers; one that does not know CAPA offers nothing."""
        self._send(["CAPA"], Expect.LINES)
        pieces = self._pieces() if self._status().ok else iter(())
        self.capabilities = listings.parse_capabilities(listings.lines(pieces, listings.MAX_CAPABILITIES))

    def authenticate(self, mechanism: Mechanism) -> Status:
        """Carry out an exchange of AUTH (RFC 5034 §4)."""
        self._send([mechanism.begin()], Expect.AUTH)
        for _ in range(MAX_CHALLENGES):
            event = self._event()
            if isinstance(event, Challenge):
                self._write(mechanism.answer(event.text).encode() + b"\r\n")
            elif isinstance(event, Status):
                if event.ok:
                    mechanism.finish()
                return event
        raise MechanismError(f"the server's challenges in {mechanism.name} do not end")

    def listing(self, line: str, count: int) -> Iterator[bytes] | None:
        """Send LIST or UIDL and return its lines, at most ``count``; None when the server refuses."""
        self._send([line], Expect.LINES)
        return listings.lines(self._pieces(), count) if self._status().ok else None

    def exchange(
        self, verb: str, numbers: Iterable[int], reply: Expect, suffix: str = ""
    ) -> Iterator[tuple[int, Status, Iterator[bytes]]]:
        """Send one command for each message, ahead of the replies where the server can; yield the replies in order.

        A reply's content must be read before the next is asked for; what is left of it is thrown away.
        """
        window = WINDOW if "PIPELINING" in self.capabilities else 1
        source, waiting = iter(numbers), deque[int]()
        while True:
            if len(waiting) <= window // 2:
                batch = list(islice(source, window - len(waiting)))
                waiting += batch
                self._send([f"{verb} {number}{suffix}" for number in batch], reply)
            if not waiting:
                return
            status = self._status()
            pieces = self._pieces() if status.ok and reply is Expect.LINES else iter(())
            yield waiting.popleft(), status, pieces
            for _ in pieces:
                pass

    def quit(self) -> Status:
        """End the session; what was marked is deleted when this says +OK, and not for certain otherwise."""
        return self.command("QUIT")

    def _send(self, lines: list[str], reply: Expect) -> None:
        for _ in lines:
            self._client.expect(reply)
        if lines:
            self._write("".join(line + "\r\n" for line in lines).encode())

    def _write(self, octets: bytes) -> None:
        self.connection.send(octets, min(self.limits.silence, self._left()))

    def _left(self) -> float:
        left = self._end - self._clock()
        if left <= 0:
            raise TemporaryError("4.4.2", f"the session took more than {self.limits.session:.0f} seconds")
        return left

    def _event(self) -> Event:
        """Return the next event, whatever it takes to receive it within the limits."""
        deadline = self._clock() + self.limits.reply
        while (event := self._client.next()) is None:
            left = deadline - self._clock()
            if left <= 0:
                raise TemporaryError("4.4.2", f"{self.connection} keeps us waiting for too long")
            self._client.receive(self.connection.receive(min(self.limits.silence, left, self._left())))
        return event

    def _status(self) -> Status:
        event = self._event()
        if not isinstance(event, Status):
            raise ProtocolError("the server sent something else than a status line")
        return event

    def _pieces(self) -> Iterator[bytes]:
        """Yield the content of a multi-line reply."""
        while not isinstance(event := self._event(), End):
            if isinstance(event, Data):
                self._left()
                yield event.octets


def refusal(status: Status, what: str, otherwise: type[StubmailError] = PermanentError) -> StubmailError:
    """Return the error for a status line -ERR: temporary when its response code says so."""
    text = f"{what}: {status.text[:200].decode('ascii', 'replace') or '-ERR'}"
    kind = TemporaryError if is_temporary(status) else otherwise
    return kind("4.3.2" if kind is TemporaryError else "5.3.0", text)


def is_temporary(status: Status) -> bool:
    """Whether another try may succeed, by the response code."""
    return status.text.upper().startswith(_LATER)
