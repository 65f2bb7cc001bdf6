"""One POP3 session without I/O: the client's octets in, replies and requests to the outside world out (RFC 1939).

The caller feeds octets with ``receive`` and calls ``next`` until it returns None. What comes back is either a ``bytes``
to send or an action to carry out. After ``Login``, ``StartTls`` and ``Commit`` the session waits until the caller
reports how that ended; commands that came behind wait in order.
"""

import enum
from collections.abc import Callable, Iterator, Mapping

from services.pop3d.actions import Action, Close, Commit, Listing, Login, Retrieve, StartTls, Statistics
from services.pop3d.sasl import SaslError, parse_plain
from services.pop3d.wire import (
    MAX_LINE,
    MAX_RESPONSE,
    LineBuffer,
    WireError,
    err,
    ok,
    parse_command,
    parse_numbers,
    retrieved,
)

MAX_ERRORS = 10  # in a row; before login nothing interrupts the row, so it bounds the guesses of one connection
LISTING_BLOCK = 200  # messages of LIST and UIDL in one piece
GREETING = "stubmail POP3 server ready"

Outcome = bytes | Action | Iterator[bytes]


class _Waiting(enum.Enum):
    NOTHING = enum.auto()
    LOGIN = enum.auto()
    TLS = enum.auto()
    COMMIT = enum.auto()
    END = enum.auto()


class Session:
    """The state of one session; not thread-safe.

    ``encrypted``: TLS is already on. ``tls_offered``: the caller can carry out StartTls. ``plain_allowed``: this client
    may log in without TLS.
    """

    __slots__ = (
        "_count",
        "_deleted",
        "_encrypted",
        "_errors",
        "_lines",
        "_listing",
        "_name",
        "_plain_allowed",
        "_queue",
        "_replies",
        "_sasl",
        "_size",
        "_tls_offered",
        "_waiting",
        "statistics",
    )

    def __init__(self, *, encrypted: bool, tls_offered: bool, plain_allowed: bool) -> None:
        self._encrypted = encrypted
        self._tls_offered = tls_offered
        self._plain_allowed = plain_allowed
        self._lines = LineBuffer()
        self._queue: list[bytes | Action] = [ok(GREETING)]
        self._replies: Iterator[bytes] | None = None
        self._waiting = _Waiting.NOTHING
        self._errors = 0
        self._name: bytes | None = None
        self._sasl = False
        self._listing: Listing | None = None
        self._deleted = bytearray()  # one octet a message, 1 when marked; allotted at the first DELE
        self._count = self._size = 0  # of the messages not marked
        self.statistics = Statistics()

    # The caller's side

    def receive(self, data: bytes) -> None:
        """Take what the client sent. After a Close it is discarded."""
        if self._waiting is not _Waiting.END:
            self._lines.feed(data)

    def next(self) -> bytes | Action | None:
        """Return the next octets to send or thing to do; None when the session needs more input or waits."""
        while True:
            if self._replies is not None:
                if block := next(self._replies, b""):
                    return block
                self._replies = None
            if self._queue:
                return self._queue.pop(0)
            if self._waiting is not _Waiting.NOTHING:
                return None
            try:
                line = self._lines.take(self._limit())
            except WireError as error:
                # The rest of the line must not run as a command, and its end may never come.
                return self._end("line too long", err(str(error)))
            if line is None:
                return None
            outcome = self._execute(line)
            if isinstance(outcome, Iterator):
                self._replies = outcome
            else:
                return outcome

    @property
    def pending(self) -> int:
        """How many octets wait to be understood: the caller stops reading when they are many."""
        return len(self._lines)

    @property
    def logged_in(self) -> bool:
        """Whether a maildrop is open (the TRANSACTION state, and UPDATE)."""
        return self._listing is not None

    @property
    def encrypted(self) -> bool:
        """Whether TLS is on."""
        return self._encrypted

    def accept(self, listing: Listing) -> None:
        """Enter the TRANSACTION state on the maildrop that the Login opened."""
        self._listing = listing
        self._unmark()
        self.statistics.messages, self.statistics.octets = self._count, self._size
        self._errors = 0
        self._waiting = _Waiting.NOTHING
        self._queue.append(ok(f"maildrop has {self._summary()}"))

    def refuse(self, code: str, text: str) -> None:
        """Answer the Login with an error: a response code such as AUTH or IN-USE, and a text for the client."""
        self._waiting = _Waiting.NOTHING
        self._queue.insert(0, self._fail(text, code))

    def tls_started(self) -> None:
        """Go on under TLS, with everything forgotten that the client said before (RFC 2595 §4)."""
        self._encrypted = True
        self._name = None
        self._waiting = _Waiting.NOTHING

    def committed(self, done: bool) -> None:
        """Answer QUIT: whether every marked message is gone for good, or else none is."""
        if done:
            self.statistics.deleted = self._deleted.count(1)
            self._queue.insert(0, self._end("quit", ok("stubmail POP3 server signing off")))
        else:
            text = "Nothing was deleted, try again later"
            self._queue.insert(0, self._end("quit, deletions failed", err(text, "SYS/TEMP")))

    # Commands

    def _limit(self) -> int:
        return MAX_RESPONSE if self._sasl or self._lines.starts_with(b"AUTH ") else MAX_LINE

    def _execute(self, line: bytes) -> Outcome:
        if self._sasl:
            self._sasl = False
            return self._sasl_response(line)
        command = parse_command(line)
        handlers, others = (
            (_TRANSACTION, _AUTHORIZATION) if self._listing is not None else (_AUTHORIZATION, _TRANSACTION)
        )
        handler = handlers.get(command.keyword)
        if handler is None:
            return self._fail("Not now" if command.keyword in others else "Unknown command")
        try:
            outcome = handler(self, command.argument)
        except WireError as error:
            return self._fail(str(error))
        if self._listing is not None:
            self._errors = 0
        return outcome

    def _fail(self, text: str, code: str = "") -> bytes:
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            return self._end("too many errors", err(text, code))
        return err(text, code)

    def _end(self, reason: str, reply: bytes) -> bytes:
        """Return the last reply; what is queued goes out behind it."""
        self._waiting = _Waiting.END
        self._lines.clear()
        self._queue.append(Close(reason))
        return reply

    def _capa(self, argument: bytes) -> Outcome:
        """RFC 2449 §5: the same list in both states, as §6 has it for each of these capabilities."""
        parse_numbers(argument, 0, 0)
        names = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER"]
        if self._login_allowed:
            names += ["USER", "SASL PLAIN"]
        if self._tls_offered and not self._encrypted:
            names.append("STLS")
        names.append("IMPLEMENTATION stubmail")
        return ok("capabilities follow") + "".join(f"{name}\r\n" for name in names).encode() + b".\r\n"

    def _quit(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        if self._listing is None:
            return self._end("quit before login", ok("stubmail POP3 server signing off"))
        self._waiting = _Waiting.COMMIT
        return Commit([index + 1 for index, marked in enumerate(self._deleted) if marked])

    # AUTHORIZATION state, RFC 1939 §4 and §7, RFC 5034

    @property
    def _login_allowed(self) -> bool:
        return self._encrypted or self._plain_allowed

    def _require_login_allowed(self) -> None:
        if not self._login_allowed:
            raise WireError("Passwords are taken under TLS only" + (", say STLS first" if self._tls_offered else ""))

    def _user(self, argument: bytes) -> Outcome:
        self._require_login_allowed()
        self._name = None
        if not argument:
            raise WireError("The name is missing")
        self._name = argument
        return ok("send PASS")  # to every name: whether there is such a user is not told

    def _pass(self, argument: bytes) -> Outcome:
        self._require_login_allowed()
        name, self._name = self._name, None
        if name is None:
            raise WireError("Send USER first")
        return self._login(name, argument)  # all of it: a password may hold spaces, RFC 1939 §7

    def _auth(self, argument: bytes) -> Outcome:
        mechanism, space, initial = argument.partition(b" ")
        if not argument:
            return ok("mechanisms follow") + (b"PLAIN\r\n" if self._login_allowed else b"") + b".\r\n"
        self._require_login_allowed()
        self._name = None
        if mechanism.upper() != b"PLAIN":
            raise WireError("Unknown authentication mechanism")
        if space:
            return self._sasl_response(b"" if initial == b"=" else initial)
        self._sasl = True
        return b"+ \r\n"

    def _sasl_response(self, line: bytes) -> Outcome:
        try:
            name, password = parse_plain(line)
        except SaslError as error:
            return self._fail(str(error))
        return self._login(name, password)

    def _login(self, name: bytes, password: bytes) -> Outcome:
        self._waiting = _Waiting.LOGIN
        return Login(name, password)

    def _stls(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        if self._encrypted or not self._tls_offered:
            raise WireError("TLS is already on" if self._encrypted else "TLS is not available")
        if self._lines:
            # Whoever sent this in the clear wants it taken for the client's words under TLS (CVE-2011-0411).
            return self._end("octets behind STLS", err("Nothing may follow STLS before its reply"))
        self._waiting = _Waiting.TLS
        self._queue.append(StartTls())
        return ok("begin TLS")

    # TRANSACTION state, RFC 1939 §5 and §7

    @property
    def _messages(self) -> Listing:
        assert self._listing is not None
        return self._listing

    def _number(self, number: int) -> int:
        """Return a message number that exists and is not marked as deleted, or raise WireError."""
        if not 1 <= number <= len(self._messages.octets):
            raise WireError("No such message")
        if self._deleted and self._deleted[number - 1]:
            raise WireError("The message is deleted")
        return number

    def _remaining(self) -> Iterator[int]:
        marked = self._deleted
        return (index for index in range(len(self._messages.octets)) if not (marked and marked[index]))

    def _unmark(self) -> None:
        self._deleted = bytearray()
        self._count, self._size = len(self._messages.octets), self._messages.total

    def _summary(self) -> str:
        return f"{self._count} message{'' if self._count == 1 else 's'} ({self._size} octets)"

    def _stat(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        return ok(f"{self._count} {self._size}")

    def _list(self, argument: bytes) -> Outcome:
        octets = self._messages.octets
        if numbers := parse_numbers(argument, 0, 1):
            number = self._number(numbers[0])
            return ok(f"{number} {octets[number - 1]}")
        return self._listing_of(self._summary(), lambda index: f"{index + 1} {octets[index]}\r\n")

    def _uidl(self, argument: bytes) -> Outcome:
        messages = self._messages
        if numbers := parse_numbers(argument, 0, 1):
            number = self._number(numbers[0])
            return ok(f"{number} {messages.uid(number - 1)}")
        return self._listing_of("unique-ids follow", lambda index: f"{index + 1} {messages.uid(index)}\r\n")

    def _listing_of(self, head: str, line: Callable[[int], str]) -> Iterator[bytes]:
        """Yield a listing in blocks; each is made when it is asked for, of the messages not marked then.

        No command runs in between, so that is one moment to the client.
        """
        block = [ok(head).decode()]
        for index in self._remaining():
            block.append(line(index))
            if len(block) > LISTING_BLOCK:
                yield "".join(block).encode()
                block.clear()
        block.append(".\r\n")
        yield "".join(block).encode()

    def _retr(self, argument: bytes) -> Outcome:
        number = self._number(parse_numbers(argument, 1, 1)[0])
        octets = self._messages.octets[number - 1]
        self.statistics.retrieved += 1
        self.statistics.retrieved_octets += octets
        return Retrieve(number, None, retrieved(octets))

    def _top(self, argument: bytes) -> Outcome:
        number, lines = parse_numbers(argument, 2, 2)
        number = self._number(number)
        self.statistics.tops += 1
        return Retrieve(number, lines, ok(f"top of message {number}"))

    def _dele(self, argument: bytes) -> Outcome:
        number = self._number(parse_numbers(argument, 1, 1)[0])
        if not self._deleted:
            self._deleted = bytearray(len(self._messages.octets))
        self._deleted[number - 1] = 1
        self._count -= 1
        self._size -= self._messages.octets[number - 1]
        return ok(f"message {number} deleted")

    def _rset(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        self._unmark()
        return ok(f"maildrop has {self._summary()}")

    def _noop(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        return ok()


_Handler = Callable[[Session, bytes], Outcome]

_AUTHORIZATION: Mapping[bytes, _Handler] = {
    b"CAPA": Session._capa,
    b"USER": Session._user,
    b"PASS": Session._pass,
    b"AUTH": Session._auth,
    b"STLS": Session._stls,
    b"QUIT": Session._quit,
}
_TRANSACTION: Mapping[bytes, _Handler] = {
    b"CAPA": Session._capa,
    b"STAT": Session._stat,
    b"LIST": Session._list,
    b"UIDL": Session._uidl,
    b"RETR": Session._retr,
    b"TOP": Session._top,
    b"DELE": Session._dele,
    b"RSET": Session._rset,
    b"NOOP": Session._noop,
    b"QUIT": Session._quit,
}
