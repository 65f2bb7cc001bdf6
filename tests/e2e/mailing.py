"""A mail program at each end: one that submits numbered messages all the time, and one that reads what arrived."""

import contextlib
import poplib
import random
import re
import smtplib
import threading
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate, make_msgid

from tests.e2e.conftest import PASSWORD, Compose

PAUSE = 0.12  # seconds between two messages
MOST = 2_000  # messages of one stream
SECONDS = 60.0  # for one answer
# What gateway and puller put in front of a message.
_TRACE = re.compile(rb"((Received|Authentication-Results):[^\r\n]*\r\n([ \t][^\r\n]*\r\n)*)+")


def compose_message(sender: str, to: str, subject: str, size: int, rng: random.Random) -> bytes:
    """Return a message with a body of about ``size`` octets, eight bits each."""
    head = f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\nDate: {formatdate()}\r\nMessage-ID: {make_msgid()}\r\n"
    line = bytes(rng.choices(range(0xA1, 0xFF), k=76)) + b"\r\n"
    return (head + "Content-Transfer-Encoding: 8bit\r\n\r\n").encode() + line * max(1, size // len(line))


class Submitter:
    """Submits messages over one connection after the other."""

    def __init__(self, compose: Compose, sender: str) -> None:
        self.sender = sender
        user, _, domain = sender.partition("@")
        self._client = smtplib.SMTP("127.0.0.1", compose.smtp[domain], timeout=SECONDS)
        self._client.ehlo("client.invalid")
        self._client.login(user, PASSWORD)

    def submit(self, to: str, message: bytes) -> None:
        """Return when 250 was said."""
        self._client.sendmail(self.sender, [to], message, ["BODY=8BITMIME"])

    def close(self) -> None:
        """End the session."""
        self._client.quit()


class Stream(threading.Thread):
    """Numbered messages from one person to another until it is stopped; ``accepted``: those that 250 was said to."""

    def __init__(self, compose: Compose, sender: str, to: str, seed: int) -> None:
        super().__init__(name=f"{sender} to {to}", daemon=True)
        self._submitter = Submitter(compose, sender)
        self._to = to
        self._rng = random.Random(seed)
        self._stopping = threading.Event()
        self.accepted: list[bytes] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        """Submit; the gateway is not disturbed, so that any refusal is a failure."""
        try:
            while not self._stopping.wait(PAUSE) and len(self.accepted) < MOST:
                subject = f"{self.name} {len(self.accepted):04}"
                size = self._rng.choice((200, 2_000, 5_000, 20_000, 100_000))
                message = compose_message(self._submitter.sender, self._to, subject, size, self._rng)
                self._submitter.submit(self._to, message)
                self.accepted.append(message)
            self._submitter.close()
        except (OSError, smtplib.SMTPException) as error:
            self.failure = error

    def stop(self) -> Counter[bytes]:
        """Return what was accepted, once nothing more is."""
        self._stopping.set()
        self.join(SECONDS)
        assert not self.is_alive()
        assert self.failure is None, self.failure
        return Counter(self.accepted)


@contextlib.contextmanager
def _maildrop(compose: Compose, address: str) -> Iterator[poplib.POP3]:
    user, _, domain = address.partition("@")
    client = poplib.POP3("127.0.0.1", compose.pop3[domain], timeout=SECONDS)
    try:
        client.user(user)
        client.pass_(PASSWORD)
        yield client
    finally:
        with contextlib.suppress(poplib.error_proto, OSError):
            client.quit()


def arrived(compose: Compose, address: str) -> int:
    """Return how many messages are in somebody's maildrop; 0 while somebody else has it locked."""
    try:
        with _maildrop(compose, address) as client:
            return client.stat()[0]
    except poplib.error_proto:
        return 0


def read(compose: Compose, address: str, after: int = 0) -> list[bytes]:
    """Return the messages in somebody's maildrop behind the first ``after``, as they were submitted."""
    with _maildrop(compose, address) as client:
        count = client.stat()[0]
        return [_as_submitted(client.retr(number)[1]) for number in range(after + 1, count + 1)]


def _as_submitted(lines: list[bytes]) -> bytes:
    message = b"".join(line + b"\r\n" for line in lines)
    trace = _TRACE.match(message)
    return message[trace.end() :] if trace else message
