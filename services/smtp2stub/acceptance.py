"""Taking a message into our care: whose it may be, what it must look like, and then into the spool."""

import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from services.smtp2stub.authentication import Authenticator
from services.smtp2stub.counters import Counters
from services.smtp2stub.data import DataReader
from services.smtp2stub.intake import SMALL, Intake
from services.smtp2stub.parameters import parse_mail_parameters, parse_rcpt_parameters
from services.smtp2stub.settings import Smtp2stub
from services.smtp2stub.submission import MAX_HEADER, Trace, prepare, split_header
from services.smtp2stub.transaction import Transaction, Wanted, parse_path
from stubmail.address import Address
from stubmail.errors import PermanentError, TemporaryError
from stubmail.limits import SessionLimit, is_loopback
from stubmail.queue import Item, Recipient, new_queue_id
from stubmail.queue.item import POST_ID_SIZE
from stubmail.users import User, Users

LOCAL = "local"  # what connections over LMTP are counted as
PIECE = 2**20  # octets copied at once


class Drainable(Protocol):
    """A connection, as far as it is counted here."""

    def drain(self) -> None: ...


class Acceptance:
    """What all connections share: accounts, limits, and the way into the spool.

    ``host`` is our name; ``scratch`` the directory for messages that are being read and are too large for memory.
    """

    def __init__(
        self,
        host: str,
        options: Smtp2stub,
        authenticator: Authenticator,
        intake: Intake,
        scratch: Path,
        clock: Callable[[], float] = time.time,
        counters: Counters | None = None,
    ) -> None:
        self.host = host
        self.options = options
        self.authenticator = authenticator
        self.intake = intake
        self.scratch = scratch
        self.clock = clock
        self.counters = Counters() if counters is None else counters
        self.connections: set[Drainable] = set()
        self.draining = False
        self.empty = asyncio.Event()  # set when the last connection ends
        self._per_network = SessionLimit(options.connection_limit_per_address)

    @property
    def users(self) -> Users:
        """The accounts as they are now."""
        return self.authenticator.users

    def enter(self, connection: Drainable, name: str) -> str:
        """Count a connection from a network; returns why it is refused, or an empty text.

        This machine, where it is trusted, may have as many as there may be: an MTA or a webmail program is all users.
        """
        if self.draining:
            return "is shutting down"
        if len(self.connections) >= self.options.connection_limit:
            return "has too many connections"
        if not self._is_trusted(name) and not self._per_network.enter(name):
            return "has too many connections from you"
        self.connections.add(connection)
        self.empty.clear()
        return ""

    def leave(self, connection: Drainable, name: str) -> None:
        """Count one less."""
        self.connections.discard(connection)
        if not self.connections:
            self.empty.set()
        if not self._is_trusted(name):
            self._per_network.leave(name)

    def begin(self, argument: str, user: User | None) -> Transaction:
        """Begin a transaction with what stands behind MAIL; ``user`` is who has logged in.

        Raises PermanentError 5.7.1 for an address that is not the client's, 5.1.7 for what is no address, 5.3.4 for an
        announced size that is too much, 5.5.4 for the rest.
        """
        text, rest = parse_path("FROM", argument)
        parameters = parse_mail_parameters(rest)
        if parameters.size > self.options.size_limit:
            raise PermanentError("5.3.4", "the message is larger than this server takes")  # RFC 1870 §6.1
        self.intake.check_room(parameters.size)
        if not text:
            return Transaction(user, None, parameters)
        sender = _parse(text, parameters.utf8, "5.1.7")
        owner = user or self._owner(sender)
        if owner is None or not owns(owner, sender):
            raise PermanentError("5.7.1", f"{sender} is not an address that you may send from")
        return Transaction(owner, sender, parameters)

    def add_recipient(self, argument: str, transaction: Transaction) -> None:
        """Add what stands behind RCPT. Raises PermanentError 5.1.3 and 5.5.4, TemporaryError 4.5.3 for one too many."""
        if len(transaction.taken) >= self.options.recipient_limit:
            raise TemporaryError("4.5.3", "too many recipients; send the message to the others afterwards")
        text, rest = parse_path("TO", argument)
        if text.lower() == "postmaster":  # RFC 5321 §4.5.1
            text = f"postmaster@{self.host}"
        utf8 = transaction.parameters.utf8
        transaction.add(Wanted(_parse(text, utf8, "5.1.3"), parse_rcpt_parameters(rest, utf8)))

    def draft(self, transaction: Transaction) -> "Draft":
        """Begin to read a message; use the result as a context manager."""
        return Draft(self, transaction)

    def author(self, user: User | None, sender: Address) -> User:
        """Return the account that a message with this ``From:`` is sent by. Raises PermanentError 5.7.1."""
        owner = user or self._owner(sender)
        if owner is None or not owns(owner, sender):
            raise PermanentError("5.7.1", f"{sender}, in From, is not an address that you may send from")
        return owner

    def _is_trusted(self, name: str) -> bool:
        return name == LOCAL or (self.options.trust_loopback and is_loopback(name))

    def _owner(self, address: Address) -> User | None:
        return self.users.find(address.key) or self.users.find(address.base.key)


class Draft:
    """A message while it is read: small ones in memory, large ones on disk under no name."""

    def __init__(self, acceptance: Acceptance, transaction: Transaction) -> None:
        self._acceptance = acceptance
        self._transaction = transaction
        self._open = ExitStack()
        text = tempfile.SpooledTemporaryFile(SMALL, dir=str(acceptance.scratch))  # noqa: SIM115
        self._text: IO[bytes] = self._open.enter_context(text)
        self._disk_full = False
        self.reader = DataReader(acceptance.options.size_limit)

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def feed(self, data: bytes) -> None:
        """Take octets as they came; they may go beyond the message's end."""
        text = self.reader.feed(data)
        if not self._disk_full:
            try:
                self._text.write(text)
            except OSError:
                self._disk_full = True  # the rest has still to be read before the client can be told

    async def accept(self, helo: str, peer: str, protocol: str) -> Item:
        """Check the message, complete its header and put it into the spool. Raises StubmailError."""
        if self.reader.fault:
            raise PermanentError(*self.reader.fault.value)
        if self._disk_full:
            raise TemporaryError("4.3.1", "the message cannot be stored now")
        now = self._acceptance.clock()
        queue_id = new_queue_id(now, secrets.randbits)
        self._text.seek(0)
        fields, body = split_header(self._text.read(MAX_HEADER + 4))
        trace = Trace(helo, peer, self._acceptance.host, protocol, queue_id)
        envelope, asked = self._transaction, self._transaction.parameters
        prepared = prepare(fields, trace, datetime.fromtimestamp(now, UTC), queue_id.lower(), utf8=asked.utf8)
        user = self._acceptance.author(envelope.account, prepared.sender)
        item = Item(
            id=queue_id,
            account=user.name,
            accepted=now,
            mail_from=envelope.mail_from,
            sender=prepared.sender,
            recipients=tuple(_recipient(wanted) for wanted in envelope.recipients.values()),
            size=len(prepared.header) + self.reader.size - body,
            utf8=asked.utf8,
            eight_bit=self.reader.eight_bit,
            ret=asked.ret,
            envid=asked.envid,
        )
        self._text.seek(body)
        await self._acceptance.intake.add(item, _pieces(prepared.header, self._text))
        return item


def owns(user: User, address: Address) -> bool:
    """Tell whether an address, or the one that it is a subaddress of, is the user's."""
    return user.address is not None and user.address.key in (address.key, address.base.key)


def _parse(text: str, utf8: bool, code: str) -> Address:
    try:
        address = Address.parse(text)
    except ValueError as error:  # AddressError, and UnicodeError for octets that are not UTF-8
        raise PermanentError(code, "that is no address that mail can be sent to") from error
    if not utf8 and not text.isascii():
        raise PermanentError("5.6.7", "that address needs SMTPUTF8")  # RFC 6531 §3.5
    return address


def _recipient(wanted: Wanted) -> Recipient:
    asked = wanted.parameters
    return Recipient(wanted.address, secrets.token_bytes(POST_ID_SIZE), asked.notify, asked.original)


def _pieces(header: bytes, text: IO[bytes]) -> Iterator[bytes]:
    yield header
    while piece := text.read(PIECE):
        yield piece
