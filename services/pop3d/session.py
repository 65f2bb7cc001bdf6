"""One POP3 session without I/O: the client's octets in, replies and requests to the outside world out (RFC 1939).

The caller feeds octets with ``receive`` and calls ``next`` until it returns None. What comes back is either a ``bytes``
to send or an action to carry out. After credentials, ``FindKeys``, ``StartTls`` and ``Commit`` the session waits until
the caller reports how that ended; commands that came behind wait in order.
"""

import enum
import re
from collections.abc import Callable, Iterator

from services.pop3d import authorization, transaction
from services.pop3d.actions import (
    Action,
    Close,
    Commit,
    Credentials,
    Listing,
    Outcome,
    Retrieve,
    StartTls,
    Statistics,
)
from services.pop3d.authorization import Authorization
from services.pop3d.language import lang
from services.pop3d.terms import NEVER, Terms
from services.pop3d.transaction import Transaction
from services.pop3d.wire import (
    MAX_DIGITS,
    MAX_LINE,
    MAX_RESPONSE,
    LineBuffer,
    WireError,
    err,
    ok,
    parse_command,
    parse_numbers,
)
from stubmail.scram import Keys

MAX_ERRORS = 10  # in a row; before login nothing interrupts the row, so it bounds the guesses of one connection
MANY = 128  # retrievals at a time
GREETING = "stubmail POP3 server ready"
_RETRIEVALS = re.compile(rb"(?:RETR [0-9]{1,%d}\r\n){2,%d}" % (MAX_DIGITS, MANY))
_READY = (bytes, Retrieve)  # what nearly all commands come to; a union, made on the spot, takes ten times as long


class _Waiting(enum.Enum):
    NOTHING = enum.auto()
    CALLER = enum.auto()
    END = enum.auto()


def _no_binding(kind: str) -> bytes:
    return b""


class Session:
    """The state of one session; not thread-safe. ``encrypted``: TLS is already on.

    ``fresh`` and ``binding``: see Authorization.
    """

    __slots__ = (
        "_authorization",
        "_errors",
        "_lines",
        "_queue",
        "_replies",
        "_terms",
        "_transaction",
        "_waiting",
        "statistics",
    )

    def __init__(
        self,
        terms: Terms,
        *,
        encrypted: bool,
        fresh: Callable[[], str],
        binding: Callable[[str], bytes] = _no_binding,
    ) -> None:
        self._terms = terms
        self._authorization = Authorization(terms, encrypted, fresh, binding)
        self._transaction: Transaction | None = None
        self._lines = LineBuffer()
        self._queue: list[bytes | Action] = [ok(f"{GREETING} {self._authorization.timestamp}".rstrip())]
        self._replies: Iterator[bytes] | None = None
        self._waiting = _Waiting.NOTHING
        self._errors = 0
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
            if isinstance(outcome, _READY):
                return outcome
            if not isinstance(outcome, Iterator):
                return self._ask(outcome)
            self._replies = outcome

    def retrievals(self) -> list[int]:
        """Return the messages that the client asks for next, whole and by commands that are there already.

        ``next`` would return the same, one by one, in ten times the time. They are MANY at most, and none when there is
        something else to be said first, or about one of them.
        """
        if self._transaction is None or self._replies is not None or self._queue:
            return []
        if self._waiting is not _Waiting.NOTHING:
            return []
        commands = self._lines.matching(_RETRIEVALS)
        numbers = list(map(int, commands.replace(b"RETR ", b"").split()))
        if not self._transaction.retrieve(numbers):
            return []
        self._lines.skip(len(commands))
        self._errors = 0
        return numbers

    @property
    def pending(self) -> int:
        """How many octets wait to be understood: the caller stops reading when they are many."""
        return len(self._lines)

    @property
    def unread(self) -> bytes:
        """Those octets."""
        return self._lines.rest()

    @property
    def logged_in(self) -> bool:
        """Whether a maildrop is open (the TRANSACTION state, and UPDATE)."""
        return self._transaction is not None

    @property
    def encrypted(self) -> bool:
        """Whether TLS is on."""
        return self._authorization.encrypted

    def accept(self, listing: Listing) -> None:
        """Enter the TRANSACTION state on the maildrop that the credentials opened."""
        self._authorization.accepted()
        self._transaction = Transaction(listing, self.statistics, self._terms.expire)
        self._errors = 0
        self._waiting = _Waiting.NOTHING
        self._queue.append(ok(f"maildrop has {self._transaction.summary()}"))

    def refuse(self, code: str, text: str) -> None:
        """Answer credentials with an error: a response code such as AUTH or IN-USE, and a text for the client."""
        self._authorization.decided()
        self._waiting = _Waiting.NOTHING
        self._queue.insert(0, self._fail(text, code))

    def keys_found(self, keys: Keys) -> None:
        """Go on with SCRAM."""
        self._waiting = _Waiting.NOTHING
        self._queue.insert(0, self._authorization.keys_found(keys))

    def tls_started(self) -> None:
        """Go on under TLS, with everything forgotten that the client said before (RFC 2595 §4)."""
        self._authorization.tls_started()
        self._waiting = _Waiting.NOTHING

    def committed(self, count: int | None, changed: int = 0, full: bool = False) -> None:
        """Answer QUIT: so many messages are gone for good, and ``changed`` of them, being others now, stay.

        None: not one is gone, but for want of room on a ``full`` disk some may be (RFC 1939 §6).
        """
        assert self._transaction is not None
        if count is None:
            text = "The disk is full: messages were not deleted" if full else "Nothing was deleted, try again later"
            self._queue.insert(0, self._end("quit, deletions failed", err(text, "SYS/TEMP")))
            return
        self._transaction.committed(count)
        if changed:
            text = "Some deleted messages were not removed: another program has changed them"
            self._queue.insert(0, self._end("quit, some deletions failed", err(text)))
        else:
            self._queue.insert(0, self._end("quit", ok("stubmail POP3 server signing off")))

    # Commands

    def _limit(self) -> int:
        if self._transaction is not None:
            return MAX_LINE
        return MAX_RESPONSE if self._authorization.exchanging or self._lines.starts_with(b"AUTH ") else MAX_LINE

    def _execute(self, line: bytes) -> Outcome:
        try:
            outcome = self._authorization.respond(line) if self._authorization.exchanging else self._command(line)
        except WireError as error:
            self._authorization.forget_name()
            return self._fail(str(error))
        if self._transaction is not None:
            self._errors = 0
        return outcome

    def _ask(self, action: Action) -> bytes | Action:
        """Wait for what the caller will report."""
        if isinstance(action, StartTls):
            return self._start_tls(action)
        if isinstance(action, Credentials):
            self.statistics.mechanism = action.mechanism
        self._waiting = _Waiting.CALLER
        return action

    def _command(self, line: bytes) -> Outcome:
        """Run a command in the state that the session is in. Raises WireError."""
        keyword, argument = parse_command(line)
        if self._transaction is not None and (run := transaction.COMMANDS.get(keyword)):
            return run(self._transaction, argument)
        if keyword != b"PASS":
            self._authorization.forget_name()
        if keyword == b"CAPA":
            return self._capa(argument)
        if keyword == b"QUIT":
            return self._quit(argument)
        if keyword == b"LANG":
            return lang(argument)
        if self._transaction is None and keyword in authorization.COMMANDS:
            return authorization.COMMANDS[keyword](self._authorization, argument)
        known = keyword in transaction.COMMANDS or keyword in authorization.COMMANDS
        raise WireError("Not now" if known else "Unknown command")

    def _capa(self, argument: bytes) -> bytes:
        """RFC 2449 §5: the same list in both states, as §6 has it for each of these capabilities."""
        parse_numbers(argument, 0, 0)
        terms = self._terms
        names = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "UTF8 USER", "LANG"]
        names.append("EXPIRE NEVER" if terms.expire == NEVER else f"EXPIRE {terms.expire}")
        names.append(f"LOGIN-DELAY {terms.login_delay}")
        if self._authorization.login_allowed:
            names.append("USER")
        if mechanisms := self._authorization.mechanisms:
            names.append(" ".join(("SASL", *mechanisms)))
        if terms.tls_offered and not self.encrypted:
            names.append("STLS")
        names.append("IMPLEMENTATION stubmail")
        return ok("capabilities follow") + "".join(f"{name}\r\n" for name in names).encode() + b".\r\n"

    def _quit(self, argument: bytes) -> bytes | Commit:
        parse_numbers(argument, 0, 0)
        if self._transaction is None:
            return self._end("quit before login", ok("stubmail POP3 server signing off"))
        return self._transaction.commit()

    def _start_tls(self, action: StartTls) -> bytes:
        if self._lines:
            # Whoever sent this in the clear wants it taken for the client's words under TLS (CVE-2011-0411).
            return self._end("octets behind STLS", err("Nothing may follow STLS before its reply"))
        self._waiting = _Waiting.CALLER
        self._queue.append(action)
        return ok("begin TLS")

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
