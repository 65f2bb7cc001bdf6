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
from services.smtp2stub.data import DataReader
from services.smtp2stub.intake import SMALL, Intake
from services.smtp2stub.settings import Smtp2stub
from services.smtp2stub.submission import MAX_HEADER, Trace, prepare, split_header
from stubmail.address import Address
from stubmail.errors import PermanentError, StubmailError, TemporaryError
from stubmail.limits import SessionLimit, is_loopback
from stubmail.queue import Item, Recipient, new_queue_id
from stubmail.queue.item import POST_ID_SIZE
from stubmail.users import User, Users

NULL_SENDER = "<>"
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
    ) -> None:
        self.host = host
        self.options = options
        self.authenticator = authenticator
        self.intake = intake
        self.scratch = scratch
        self.clock = clock
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

    def check_sender(self, address: str, user: User | None, utf8: bool) -> User | None:
        """Return whose message begins with this MAIL FROM; None for the null sender of somebody not logged in.

        Raises PermanentError 5.7.1 for an address that is not the client's, 5.1.7 for what is no address.
        """
        if address == NULL_SENDER:
            return user
        sender = _parse(address, utf8, "5.1.7")
        owner = user or self._owner(sender)
        if owner is None or not owns(owner, sender):
            raise PermanentError("5.7.1", f"{sender} is not an address that you may send from")
        return owner

    def check_recipient(self, address: str, utf8: bool) -> str:
        """Return a recipient in the form that is kept. Raises PermanentError 5.1.3."""
        if address.lower() == "postmaster":  # RFC 5321 §4.5.1
            address = f"postmaster@{self.host}"
        return str(_parse(address, utf8, "5.1.3"))

    def draft(self, user: User | None, mail_from: str | None, recipients: list[str], utf8: bool) -> "Draft":
        """Begin to read a message; use the result as a context manager."""
        return Draft(self, user, mail_from or NULL_SENDER, recipients, utf8)

    def author(self, user: User | None, sender: Address) -> User:
        """Return the account that a message with this ``From:`` is sent by. Raises PermanentError 5.7.1."""
        owner = user or self._owner(sender)
        if owner is None or not owns(owner, sender):
            raise PermanentError("5.7.1", f"{sender}, in From, is not an address that you may send from")
        return owner

    def _is_trusted(self, name: str) -> bool:
        return self.options.trust_loopback and is_loopback(name)

    def _owner(self, address: Address) -> User | None:
        return self.users.find(address.key) or self.users.find(address.base.key)


class Draft:
    """A message while it is read: small ones in memory, large ones on disk under no name."""

    def __init__(
        self, acceptance: Acceptance, user: User | None, mail_from: str, recipients: list[str], utf8: bool
    ) -> None:
        self._acceptance = acceptance
        self._user = user
        self._mail_from = mail_from
        self._recipients = recipients
        self._utf8 = utf8
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
            code, text = self.reader.fault.value
            raise PermanentError(code.partition(" ")[2], text)
        if self._disk_full:
            raise TemporaryError("4.3.1", "the message cannot be stored now")
        now = self._acceptance.clock()
        queue_id = new_queue_id(now, secrets.randbits)
        self._text.seek(0)
        fields, body = split_header(self._text.read(MAX_HEADER + 4))
        trace = Trace(helo, peer, self._acceptance.host, protocol, queue_id)
        prepared = prepare(fields, trace, datetime.fromtimestamp(now, UTC), queue_id.lower(), utf8=self._utf8)
        user = self._acceptance.author(self._user, prepared.sender)
        item = Item(
            id=queue_id,
            account=user.name,
            accepted=now,
            mail_from=None if self._mail_from == NULL_SENDER else Address.parse(self._mail_from),
            sender=prepared.sender,
            recipients=tuple(
                Recipient(Address.parse(recipient), secrets.token_bytes(POST_ID_SIZE)) for recipient in self._recipients
            ),
            size=len(prepared.header) + self.reader.size - body,
            utf8=self._utf8,
            eight_bit=self.reader.eight_bit,
        )
        self._text.seek(body)
        await self._acceptance.intake.add(item, _pieces(prepared.header, self._text))
        return item

    def reply_code(self, error: StubmailError) -> str:
        """The basic code to say an error with."""
        if self.reader.fault:
            return self.reader.fault.value[0].partition(" ")[0]
        return {"4.3.1": "452"}.get(error.code, "451" if isinstance(error, TemporaryError) else "550")


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


def _pieces(header: bytes, text: IO[bytes]) -> Iterator[bytes]:
    yield header
    while piece := text.read(PIECE):
        yield piece
