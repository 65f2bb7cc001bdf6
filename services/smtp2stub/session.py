"""One client's dialog: aiosmtpd's commands with our logins, permissions and way of reading messages."""

import asyncio
import logging
import ssl
import time

from aiosmtpd.smtp import MISSING, Envelope

from services.smtp2stub.acceptance import Acceptance, Draft
from services.smtp2stub.connection import Connection
from services.smtp2stub.login import SCRAM, AbortedError, Login
from services.smtp2stub.parameters import ParameterError
from services.smtp2stub.replies import refusal
from services.smtp2stub.transaction import Transaction
from stubmail.errors import PermanentError, StubmailError
from stubmail.log import event
from stubmail.users import User

FAILED_LOGINS = 3  # on one connection
PIECE = 2**20  # octets; more than the reader ever holds
GRACE_SECONDS = 60.0  # after which a message has to have come faster than MIN_RATE
MIN_RATE = 1024  # octets a second

_log = logging.getLogger("smtp2stub.receiver")


class Dialog(Connection):
    """What is said on a connection; see Connection for the parameters."""

    def __init__(
        self, acceptance: Acceptance, tls: ssl.SSLContext | None, loop: asyncio.AbstractEventLoop, implicit_tls: bool
    ) -> None:
        self.transaction: Transaction | None = None
        super().__init__(_HOOKS, acceptance, tls, loop, implicit_tls)

    def __dir__(self) -> list[str]:
        return _COMMANDS  # aiosmtpd looks through all of a new connection's attributes for these: half its time

    def _create_envelope(self) -> Envelope:
        """Forget the transaction: aiosmtpd asks for a new envelope whenever one is over (RFC 5321 §4.1.4)."""
        self.transaction = None
        return super()._create_envelope()

    async def smtp_HELO(self, arg: str | None) -> None:
        await self._greet(arg, [self.hostname], extended=False)

    async def smtp_EHLO(self, arg: str | None) -> None:
        offers = [self.hostname, f"SIZE {self.data_size_limit}", "8BITMIME", "SMTPUTF8", "PIPELINING"]
        offers += ["ENHANCEDSTATUSCODES", "DSN"]
        if self.tls_context and not self.over_tls:
            offers.append("STARTTLS")
        if self.mechanisms:
            offers.append(f"AUTH {' '.join(self.mechanisms)}")
        await self._greet(arg, offers, extended=True)

    async def _greet(self, name: str | None, offers: list[str], *, extended: bool) -> None:
        if not name:
            await self.push("501 5.5.4 say who you are")
            return
        assert self.session is not None
        self.envelope = self._create_envelope()  # RFC 5321 §4.1.4
        self.session.host_name, self.session.extended_smtp = name, extended
        lines = [f"250-{offer}" for offer in offers[:-1]] + [f"250 {offers[-1]}"]
        await self.push("\r\n".join(lines).encode())  # at once: a reply a packet costs a client round trips

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What a client may log in with now; nothing without encryption (RFC 4954 §4)."""
        if not self.may_log_in:
            return ()
        return ("PLAIN", "LOGIN", *([SCRAM] if self.acceptance.authenticator.offers_scram else []))

    async def smtp_AUTH(self, arg: str | None) -> None:
        assert self.session is not None
        mechanism, _, initial = (arg or "").partition(" ")
        if not self.session.extended_smtp:
            await self.push("503 5.5.1 say EHLO first")
        elif not self.may_log_in:
            await self.push("538 5.7.11 encryption is required before a password may be sent; say STARTTLS")
        elif self.user is not None or self.transaction is not None:
            await self.push("503 5.5.1 not now")
        elif mechanism.upper() not in self.mechanisms:
            await self.push(f"504 5.5.4 only these are known here: {' '.join(self.mechanisms)}")
        else:
            await self._log_in(mechanism.upper(), initial.strip())

    async def _log_in(self, mechanism: str, initial: str) -> None:
        try:
            user = await Login(self.acceptance.authenticator, self.peer, self._ask).run(mechanism, initial)
        except AbortedError:
            return
        except StubmailError as error:
            self._failed_logins += 1
            event(_log, "refused", address=self.peer, reason=f"login: {error.text}")
            await self.push(refusal(error))
            if self._failed_logins >= FAILED_LOGINS:
                self.hang_up("421 4.7.0 too many failed logins")
            return
        self.user = user
        await self.push("235 2.7.0 welcome")

    async def _ask(self, challenge: bytes) -> bytes:
        answer = await self.challenge_auth(challenge)
        if answer is MISSING:
            raise AbortedError
        assert isinstance(answer, bytes)
        return answer

    async def smtp_MAIL(self, arg: str | None) -> None:
        if await self.check_helo_needed():
            return
        if self.transaction is not None:
            await self.push("503 5.5.1 there is a sender already")
            return
        try:
            if self.user is None and not self.trusted:
                raise PermanentError("5.7.0", "log in first")
            self._refuse_parameters(arg)
            self.transaction = self.acceptance.begin(arg or "", self.user)
        except StubmailError as error:
            event(_log, "refused", address=self.peer, account=_name(self.user), reason=error, mail_from=arg)
            await self.push(refusal(error))
        else:
            await self.push("250 2.1.0 go on")

    async def smtp_RCPT(self, arg: str | None) -> None:
        if await self.check_helo_needed():
            return
        if self.transaction is None:
            await self.push("503 5.5.1 MAIL comes before RCPT")
            return
        try:
            self._refuse_parameters(arg)
            self.acceptance.add_recipient(arg or "", self.transaction)
        except StubmailError as error:
            await self.push(refusal(error))
        else:
            await self.push("250 2.1.5 go on")

    def _refuse_parameters(self, argument: str | None) -> None:
        """Raise ParameterError for parameters when HELO was said: they are ESMTP's (RFC 5321 §2.2.1)."""
        assert self.session is not None
        if not self.session.extended_smtp and argument and not argument.endswith(">"):
            raise ParameterError("parameters come after EHLO only")

    async def smtp_HELP(self, arg: str | None) -> None:
        await self.push("214 2.0.0 see RFC 5321")

    async def smtp_VRFY(self, arg: str | None) -> None:
        await self.push("252 2.5.0 nobody is verified here; send mail and see")  # RFC 5321 §7.3

    async def smtp_DATA(self, arg: str | None) -> None:
        if await self.check_helo_needed():
            return
        if arg:
            await self.push("501 5.5.4 DATA stands alone")
            return
        transaction = self.transaction
        if transaction is None or not transaction.recipients:
            await self.push("503 5.5.1 RCPT comes before DATA")
            return
        self.busy = True
        try:
            await self.push("354 go on, and end with <CRLF>.<CRLF>")
            reply = await self._receive(transaction)
            self.envelope = self._create_envelope()
            await self.answer(transaction, reply)
        finally:
            self.busy = False
        if self.acceptance.draining:
            self.drain()

    async def answer(self, transaction: Transaction, reply: str) -> None:
        """Say what became of the message."""
        await self.push(reply)

    async def _receive(self, transaction: Transaction) -> str:
        assert self.session is not None
        with self.acceptance.draft(transaction) as draft:
            await self._read(draft)
            try:
                item = await draft.accept(self.session.host_name or "", self.peer, self.protocol(transaction))
            except StubmailError as error:
                event(_log, "refused", address=self.peer, account=_name(transaction.account), reason=error)
                return refusal(error)
        size, recipients = item.size, len(item.recipients)
        self._errors = 0
        event(_log, "accepted", item.id, account=item.account, address=self.peer, size=size, recipients=recipients)
        return f"250 2.0.0 accepted as {item.id}"

    def protocol(self, transaction: Transaction) -> str:
        """What the Received field calls the protocol (RFC 3848, RFC 6531 §4.3)."""
        assert self.session is not None
        if not self.session.extended_smtp:
            return "SMTP"
        name = "UTF8SMTP" if transaction.parameters.utf8 else "ESMTP"
        return name + "S" * self.over_tls + "A" * (self.user is not None)

    async def _read(self, draft: Draft) -> None:
        """Read the message up to its end into the draft; what comes behind goes back to the dialog."""
        started, received = time.monotonic(), 0
        while not draft.reader.finished:
            piece = await self._reader.read(PIECE)  # never more than there is, so feed_data below keeps the order
            if not piece:
                raise asyncio.CancelledError  # as when aiosmtpd notices first that the client is gone
            received += len(piece)
            elapsed = time.monotonic() - started
            if elapsed > GRACE_SECONDS and received < MIN_RATE * elapsed:
                self.hang_up("421 4.4.2 the message comes too slowly")
                raise asyncio.CancelledError
            self._reset_timeout()
            draft.feed(piece)
        if draft.reader.rest:
            self._reader.feed_data(draft.reader.rest)


_COMMANDS = [name for name in dir(Dialog) if name.startswith("smtp_")]


def _name(user: User | None) -> str | None:
    return user.name if user else None


class _Hooks:
    """What aiosmtpd asks outside of commands; all state is the connection's."""

    def __dir__(self) -> list[str]:
        return ["handle_exception"]  # aiosmtpd looks through these at each new connection as well

    async def handle_exception(self, error: Exception) -> str:
        if isinstance(error, ValueError) and "limit" in str(error):  # StreamReader.readline in an AUTH exchange
            return "500 5.5.6 the line is too long"
        event(_log, "failed", level=logging.ERROR, error=repr(error))
        _log.debug("the reason", exc_info=error)
        return "451 4.3.0 something went wrong here"


_HOOKS = _Hooks()
