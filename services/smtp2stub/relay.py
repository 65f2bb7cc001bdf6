"""The way to domains without stub mail: one smarthost (RFC 5321), its answers kept apart by recipient.

Between the smarthost's 250 and the moment when that is on our disk lies a window in which a crash sends the message a
second time; SMTP offers nothing to close it (RFC 1047).
"""

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from stubmail.address import Address
from stubmail.errors import PermanentError, StubmailError, TemporaryError
from stubmail.queue import SILENT, Item, Outcome, Recipient, State

VIA = "smarthost"
CONNECT_SECONDS = 30.0
REPLY_SECONDS = 300.0  # RFC 5321 §4.5.3.2
ACCEPT_SECONDS = 600.0  # the same, for the reply to the final dot: giving up early makes duplicates
QUIT_SECONDS = 5.0  # nothing depends on the answer
TOO_MANY = 452  # to RCPT: the others go at once, in another transaction (RFC 5321 §4.5.3.1.10)
MAX_TEXT = 400  # characters of a reply that are kept


@dataclass(frozen=True, slots=True)
class Smarthost:
    """Where it is, how the connection is protected (``none``, ``starttls``, ``tls``), and how to log in.

    ``context`` verifies its certificate for ``host``; ``name`` is what we call ourselves.
    """

    host: str
    port: int
    tls: str
    name: str
    context: ssl.SSLContext | None = None
    user: str = ""
    password: str = field(default="", repr=False)

    def connect(self) -> smtplib.SMTP:
        """Return a connection that is ready for mail. Raises StubmailError: 4.4.1, 4.7.0 or what the server said."""
        try:
            if self.tls == "tls":
                client: smtplib.SMTP = smtplib.SMTP_SSL(
                    self.host, self.port, self.name, timeout=CONNECT_SECONDS, context=self.context
                )
            else:
                client = smtplib.SMTP(self.host, self.port, self.name, timeout=CONNECT_SECONDS)
        except OSError as error:
            raise _failed(error, f"cannot reach the smarthost {self.host} port {self.port}") from error
        try:
            client.ehlo_or_helo_if_needed()
            if self.tls == "starttls":
                client.starttls(context=self.context)
                client.ehlo()
            if self.user:
                client.login(self.user, self.password)
        except OSError as error:
            client.close()
            raise _failed(error, f"the smarthost {self.host} cannot be used") from error
        return client


class Lender(Protocol):
    """Who has connections to the smarthost: see Connections."""

    def take(self) -> smtplib.SMTP: ...

    def give(self, client: smtplib.SMTP, *, good: bool) -> None: ...


def relay(lender: Lender, item: Item, recipients: Sequence[Address], message: bytes) -> list[Outcome]:
    """Hand a message to the smarthost for these recipients and return what it said of each, in their order.

    Never raises for what the network or the smarthost does: that is in the outcomes.
    """
    try:
        client = lender.take()
    except StubmailError as error:
        return [_deferred(error)] * len(recipients)
    outcomes: dict[Address, Outcome] = {}
    left, good = list(recipients), False
    try:
        _patience(client, REPLY_SECONDS)
        while left:
            some, left = _transaction(client, item, left, message)
            outcomes |= some
        good = True
    except StubmailError as error:
        outcomes |= dict.fromkeys(left, Outcome.of(error, VIA))
    except OSError as error:  # smtplib's errors are OSErrors too
        outcomes |= dict.fromkeys(left, Outcome.of(_failed(error, "the smarthost broke off"), VIA))
    finally:
        lender.give(client, good=good)
    return [outcomes[recipient] for recipient in recipients]


def _transaction(
    client: smtplib.SMTP, item: Item, recipients: Sequence[Address], message: bytes
) -> tuple[dict[Address, Outcome], list[Address]]:
    """Return what was said of recipients, and those who want another transaction: this one took only so many."""
    mail_from = str(item.mail_from) if item.mail_from else ""
    _expect(client.mail(mail_from, _options(client, item)))
    known = {recipient.address: recipient for recipient in item.recipients}
    notifies = client.has_extn("dsn")
    replies = {
        address: client.rcpt(str(address), _rcpt_parameters(known[address]) if notifies else [])
        for address in recipients
    }
    outcomes = {address: _outcome(*reply) for address, reply in replies.items()}
    taken = [address for address, outcome in outcomes.items() if outcome.state is State.DONE]
    if not taken:
        return outcomes, []
    final = _data(client, message)
    if notifies and final.state is State.DONE:
        final = replace(final, notice=SILENT)  # notices of success are the smarthost's now, RFC 3461 §5.2.1
    outcomes |= dict.fromkeys(taken, final)
    left = [address for address, (code, _) in replies.items() if code == TOO_MANY]
    return outcomes, left if final.state is State.DONE else []


def _data(client: smtplib.SMTP, message: bytes) -> Outcome:
    _patience(client, ACCEPT_SECONDS)
    try:
        return _outcome(*client.data(message))
    except smtplib.SMTPDataError as error:  # instead of 354
        return _outcome(error.smtp_code, _octets(error.smtp_error))


def _options(client: smtplib.SMTP, item: Item) -> list[str]:
    """The parameters of MAIL. Raises PermanentError when the message is one that the smarthost cannot take."""
    options = [f"SIZE={item.size}"] if client.has_extn("size") else []
    if item.utf8:
        if not client.has_extn("smtputf8"):
            raise PermanentError("5.6.7", "the message needs SMTPUTF8, which the smarthost does not know")
        options.append("SMTPUTF8")
    if item.eight_bit:
        if not client.has_extn("8bitmime"):
            raise PermanentError("5.6.3", "the message has octets over 127, which the smarthost does not take")
        options.append("BODY=8BITMIME")
    if client.has_extn("dsn"):
        options += _parameters(RET=item.ret, ENVID=item.envid)
    return options


def _rcpt_parameters(recipient: Recipient) -> list[str]:
    """The parameters of RCPT: what the client asked for, as it asked for it (RFC 3461 §5.2.1)."""
    return _parameters(NOTIFY=recipient.notify, ORCPT=recipient.original)


def _parameters(**values: str) -> list[str]:
    return [f"{name}={value}" for name, value in values.items() if value]


def _expect(reply: tuple[int, bytes]) -> None:
    outcome = _outcome(*reply)
    if outcome.state is not State.DONE:
        kind = TemporaryError if outcome.state is State.WAITING else PermanentError
        raise kind(outcome.code, outcome.text)


def _outcome(code: int, text: bytes) -> Outcome:
    """What a reply means for a recipient: 2xx done, 5xx failed, anything else another time."""
    words = text.decode("utf-8", "replace").replace("\n", " ")[:MAX_TEXT]
    state = State.DONE if code // 100 == 2 else State.FAILED if code // 100 == 5 else State.WAITING
    enhanced, _, rest = words.partition(" ")
    default = {State.DONE: "2.0.0", State.FAILED: "5.0.0", State.WAITING: "4.0.0"}[state]
    if not _is_enhanced(enhanced, default[0]):
        enhanced, rest = default, words
    return Outcome(state, enhanced, f"the smarthost says: {code} {rest}" if state is not State.DONE else rest, VIA)


def _is_enhanced(text: str, kind: str) -> bool:
    parts = text.split(".")
    return len(parts) == 3 and parts[0] == kind and all(part.isascii() and part.isdigit() for part in parts)


def _failed(error: Exception, what: str) -> StubmailError:
    """What went wrong while connecting or in the middle. A refused login waits for the administrator."""
    if isinstance(error, smtplib.SMTPResponseException):
        reason = f"{error.smtp_code} {_octets(error.smtp_error).decode('utf-8', 'replace')}"
    elif isinstance(error, OSError):
        reason = error.strerror or str(error)
    else:
        reason = str(error)
    return TemporaryError("4.4.1", f"{what}: {reason[:MAX_TEXT]}")


def _deferred(error: StubmailError) -> Outcome:
    return Outcome(State.WAITING, error.code, error.text, VIA)


def _octets(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _patience(client: smtplib.SMTP, seconds: float) -> None:
    if client.sock is not None:
        client.sock.settimeout(seconds)


def end(client: smtplib.SMTP) -> None:
    """End politely; whether the smarthost still listens makes no difference."""
    _patience(client, QUIT_SECONDS)
    try:
        client.quit()
    except OSError:
        client.close()
