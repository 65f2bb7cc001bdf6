"""The walk that the demo shows: a first message that waits, the reply that frees it, and a legacy message.

Every step is checked as it happens; what arrives is compared octet by octet with what was sent.
"""

import contextlib
import poplib
import re
import smtplib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import TypeVar

from stubmail.address import Address
from stubmail.discovery import Resolver
from stubmail.http_client import HttpClient
from stubmail.keyring import Keyring
from stubmail.store_client import StoreClient
from stubmail.testing.domain import DomainNetwork
from stubmail.testing.network import LEGACY, PASSWORD, Network

PATIENCE = 30.0  # seconds until a step that should take milliseconds counts as failed
_TRACE = re.compile(rb"((Received|Authentication-Results):[^\r\n]*\r\n([ \t][^\r\n]*\r\n)*)+")
T = TypeVar("T")


class WalkError(Exception):
    """A step did not happen, or something else arrived than was sent."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened: a word, a sentence, and how long after the start, in seconds."""

    what: str
    text: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Correspondent:
    """One user of one domain, and what a mail program would do for him."""

    user: str
    domain: DomainNetwork

    @property
    def address(self) -> Address:
        """His mail address."""
        return Address(self.user, self.domain.site.domain)

    def submit(self, to: Address, message: bytes) -> float:
        """Send a message as a mail program does, and return the moment (monotonic) at which 250 was said."""
        host, port = self.domain.place("smtp")
        with smtplib.SMTP(host, port, timeout=PATIENCE) as client:
            client.ehlo("client.invalid")
            client.login(self.user, PASSWORD)
            client.sendmail(str(self.address), [str(to)], message, ["BODY=8BITMIME"])
            return time.monotonic()

    def read(self) -> list[bytes]:
        """Return all messages in his maildrop, as POP3 gives them."""
        host, port = self.domain.place("pop3")
        client = poplib.POP3(host, port, timeout=PATIENCE)
        try:
            client.user(self.user)
            client.pass_(PASSWORD)
            count, _ = client.stat()
            return [b"".join(line + b"\r\n" for line in client.retr(at + 1)[1]) for at in range(count)]
        finally:
            with contextlib.suppress(poplib.error_proto, OSError):
                client.quit()

    def outbox(self, network: Network) -> dict[str, str]:
        """Return the states of what he sent, by recipient's address: what ``stubmail outbox`` shows."""
        resolver = Resolver(network.dns, allow_private=True)
        site = self.domain.site
        offer = resolver.discover(site.domain)
        if offer is None:
            raise WalkError(f"{site.domain} publishes no stub mail records")
        identity = Keyring(site.keys / self.user).identity(self.address)
        client = StoreClient(HttpClient(resolver), offer.stores[0], identity, self.address)
        return {str(post.address): post.state for post in client.outbox().posts}


def compose(sender: Address, to: Address, subject: str) -> bytes:
    """Return a message with 8-bit text, lines that look like mbox and SMTP syntax, and an attachment; CRLF."""
    message = EmailMessage(policy=policy.SMTP.clone(cte_type="8bit"))
    message["From"] = str(sender)
    message["To"] = str(to)
    message["Subject"] = subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=sender.domain)
    message.set_content(
        "Grüße aus der Ferne, and a few traps:\n\nFrom here on\n>From there\n.\n..\nThe end.\n", cte="8bit"
    )
    message.add_attachment(bytes(range(256)) * 8, "application", "octet-stream", filename="octets.bin")
    return message.as_bytes()


def walk(network: Network, started: float) -> Iterator[Step]:
    """Yield the steps as they happen, their times counted from ``started`` (monotonic). Raises WalkError."""
    first, second = list(network.domains.values())[:2]
    alice, bob = Correspondent(first.users[0], first), Correspondent(second.users[0], second)

    def step(what: str, text: str) -> Step:
        return Step(what, text, time.monotonic() - started)

    hello = compose(alice.address, bob.address, "A first message that has to wait")
    strangers = Keyring(second.site.keys / bob.user).find(alice.address) is None
    alice.submit(bob.address, hello)
    yield step("submitted", f"{alice.address} to {bob.address}: 250, it is in the gateway's spool")
    _until("the first message is stored", lambda: alice.outbox(network).get(str(bob.address)))
    yield step("stored", f"encrypted to {bob.user}'s key, found through {second.site.domain}'s DNS and key server")
    if strangers:
        if bob.read() or alice.outbox(network)[str(bob.address)] != "waiting":
            raise WalkError(f"{bob.address} got mail from somebody whose key he does not have")
        yield step("waits", f"{bob.user} has no key of {alice.user}: his puller does not ask her domain yet")

    reply = compose(bob.address, alice.address, "The reply that fetches it")
    said = bob.submit(alice.address, reply)
    yield step("replied", f"{bob.address} to {alice.address}: his gateway takes her key into his keyring")
    _until("the first message arrives", lambda: _has(bob, hello))
    yield step("delivered", f"to {bob.address}, octet by octet as sent")
    _until("the reply arrives", lambda: _has(alice, reply))
    yield step("delivered", f"to {alice.address}, octet by octet as sent, {time.monotonic() - said:.2f} s after 250")
    _until("the store knows", lambda: alice.outbox(network)[str(bob.address)] == "fetched")
    yield step("fetched", f"{alice.user}'s outbox says that {bob.user} has it; the store has deleted it")

    again = compose(alice.address, bob.address, "Between people who know each other")
    box = second.mbox(bob.user)
    before = box.stat().st_size
    said = alice.submit(bob.address, again)
    _until("the next message arrives", lambda: box.stat().st_size > before, 0.002)
    latency = time.monotonic() - said
    yield step(
        "latency", f"{latency * 1000:.0f} ms from 250 to {bob.user}'s mbox, checked over UDP every {network.interval} s"
    )
    _until("the next message can be read", lambda: _has(bob, again))

    carol = Address("carol", LEGACY)
    letter = compose(alice.address, carol, "As it always was")
    alice.submit(carol, letter)
    stored = letter.replace(b"\r\n", b"\n").replace(b"\n>From ", b"\n>>From ").replace(b"\nFrom ", b"\n>From ")
    _until(
        "the legacy message arrives",
        lambda: network.legacy_mbox.exists() and stored in network.legacy_mbox.read_bytes(),
    )
    yield step("relayed", f"{alice.address} to {carol}: no stub records there, so the smarthost got it")


def _has(reader: Correspondent, sent: bytes) -> bool:
    """Whether a message is exactly what was sent, with nothing but trace fields in front of it."""
    try:
        return any(_TRACE.fullmatch(message.removesuffix(sent)) for message in reader.read() if message.endswith(sent))
    except poplib.error_proto:  # the maildrop is locked for a moment
        return False


def _until(what: str, happened: Callable[[], T], pause: float = 0.05) -> T:
    deadline = time.monotonic() + PATIENCE
    while not (value := happened()):
        if time.monotonic() > deadline:
            raise WalkError(f"{PATIENCE:.0f} s passed, but not this: {what}")
        time.sleep(pause)
    return value
