"""A store that lives in memory, and keys that seal without cryptography, for the puller's tests.

What a test wants to be wrong, it makes wrong: every answer can be replaced.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from services.http2mbox.account import Account
from stubmail.address import Address
from stubmail.envelope import Envelope, fill_up, tag
from stubmail.errors import TemporaryError
from stubmail.frames import ABSENT, CONTENT, END, Frame
from stubmail.maildrops import Committed, Maildrop
from stubmail.mbox import Delivery, Mbox
from stubmail.openpgp import Certificate, Identity, OpenPGPError, Unsealed
from stubmail.store_answers import Listed, Listing, Other

ALICE = Address("alice", "alpha.example")
BOB = Address("bob", "beta.example")
ALICE_KEY = "A1" * 20
BOB_KEY = "B0" * 20
STRANGER_KEY = "5E" * 20
WHEN = datetime(2026, 11, 21, 9, tzinfo=UTC)


def certificate(address: Address, fingerprint: str, data: bytes = b"") -> Certificate:
    """A certificate of which nothing but its name is real."""
    return PlainCertificate(data or fingerprint.encode(), fingerprint, (f"<{address}>",), frozenset({address.key}))


class PlainCertificate(Certificate):
    """Its problem, if any, stands in its data."""

    @property
    def key_fingerprints(self) -> tuple[str, ...]:
        return (self.fingerprint,)

    def signing_problem(self, now: datetime) -> str | None:
        return self.data.decode() if self.data in (b"revoked", b"expired") else None


class PlainIdentity(Identity):
    """Unseals what ``seal_plainly`` made: JSON that names recipient and signer, a NUL, and the text."""

    def __init__(self, address: Address, fingerprint: str) -> None:
        super().__init__(certificate(address, fingerprint))
        self.closed = False

    def unseal(self, data: bytes, certificate_of: Callable[[str], Certificate | None], max_size: int) -> Unsealed:
        head, _, text = data.partition(b"\0")
        try:
            names = json.loads(head)
        except ValueError:
            raise OpenPGPError("malformed", "not an OpenPGP message") from None
        if names["to"] != self.fingerprint:
            raise OpenPGPError("not-for-us", "encrypted to somebody else")
        if len(text) > max_size:
            raise OpenPGPError("too-large", "a bomb")
        if names["by"] is None:
            raise OpenPGPError("unsigned", "not signed")
        if certificate_of(names["by"]) is None:
            raise OpenPGPError("unknown-signer", "signed by a stranger")
        return Unsealed(text, names["by"])

    def sign(self, data: bytes) -> bytes:
        raise NotImplementedError

    def seal(self, data: bytes, recipients: Sequence[Certificate]) -> bytes:
        raise NotImplementedError

    def decrypt(self, data: bytes, max_size: int) -> bytes:
        head, _, text = data.partition(b"\0")
        try:
            names = json.loads(head)
        except ValueError:
            raise OpenPGPError("malformed", "not an OpenPGP message") from None
        if names["to"] != self.fingerprint:
            raise OpenPGPError("not-for-us", "encrypted to somebody else")
        return text

    def close(self) -> None:
        self.closed = True


def seal_plainly(
    post_id: bytes,
    message: bytes,
    *,
    sender: Address = ALICE,
    signer: str | None = ALICE_KEY,
    to: Address = BOB,
    to_key: str = BOB_KEY,
    tag_for: bytes | None = None,
) -> bytes:
    """Wrap a message for one recipient, sign it and encrypt it, so to speak."""
    tags = fill_up([tag(tag_for or post_id, to_key, to)], random.Random(post_id).randbytes)
    return json.dumps({"to": to_key, "by": signer}).encode() + b"\0" + Envelope(sender, WHEN, tags).wrap(message)


class FakeKeyring:
    """The correspondents that a test gives it."""

    def __init__(self, *certificates: Certificate) -> None:
        self.certificates = list(certificates)

    def correspondents(self) -> dict[str, list[Certificate]]:
        found: dict[str, list[Certificate]] = {}
        for each in self.certificates:
            for key in each.addresses:
                found.setdefault(key, []).append(each)
        return found

    def by_fingerprint(self, fingerprint: str) -> Certificate | None:
        return next((each for each in self.certificates if each.fingerprint == fingerprint), None)


@dataclass
class FakeStore:
    """A store for one recipient; what waits is in ``posts``, by id. Attributes tell how to misbehave."""

    posts: dict[bytes, tuple[Listed, bytes]] = field(default_factory=dict)
    others: tuple[Other, ...] = ()
    serial: int = 0
    calls: list[str] = field(default_factory=list)
    acknowledged: list[bytes] = field(default_factory=list)
    lose_acks: int = 0  # acknowledgements whose answer does not arrive
    break_after: int | None = None  # octets of content after which a fetch answer breaks off
    page: int = 1000

    def put(self, post_id: bytes, content: bytes, *, sender: str = ALICE_KEY, address: Address = ALICE) -> Listed:
        """Let a post wait."""
        self.serial += 1
        listed = Listed(post_id, self.serial, sender, address, len(content), 1_700_000_000)
        self.posts[post_id] = listed, content
        return listed

    def put_message(self, number: int, message: bytes | None = None) -> Listed:
        """Let an honest message of alice's wait; its id is made of ``number``."""
        post_id = number.to_bytes(16, "big")
        return self.put(post_id, seal_plainly(post_id, message or honest_message(number)))

    def list(self, senders: Iterable[str], after: int = 0, limit: int = 1000) -> Listing:
        self.calls.append("list")
        wanted = set(senders)
        found = [post for post, _ in self.posts.values() if post.sender in wanted and post.serial > after]
        size = min(limit, self.page)
        serial = max((post.serial for post, _ in self.posts.values()), default=0)
        return Listing(tuple(found[:size]), len(found) > size, serial, self.others)

    def fetch(self, posts: Sequence[tuple[bytes, int]]) -> Iterator[Frame | bytes]:
        self.calls.append("fetch")
        left = self.break_after
        for post_id, offset in posts:
            if post_id not in self.posts:
                yield Frame(post_id, ABSENT)
                continue
            content = self.posts[post_id][1][offset:]
            yield Frame(post_id, CONTENT, offset, len(content))
            for start in range(0, len(content), 1000):
                piece = content[start : start + 1000]
                if left is not None:
                    piece, left = piece[:left], left - len(piece)
                if piece:
                    yield piece
                if left is not None and left <= 0:
                    raise TemporaryError("4.4.2", "the store's answer broke off")
        yield END

    def ack(self, ids: Iterable[bytes]) -> None:
        self.calls.append("ack")
        if self.lose_acks < 0:
            self.lose_acks += 1
            raise TemporaryError("4.4.1", "the acknowledgement did not arrive")
        for post_id in ids:
            self.acknowledged.append(post_id)
            self.posts.pop(post_id, None)
        if self.lose_acks:
            self.lose_acks -= 1
            raise TemporaryError("4.4.2", "the answer broke off")

    def relist(self, post_id: bytes, **changes: object) -> None:
        """Tell something else about a post in listings."""
        listed, content = self.posts[post_id]
        self.posts[post_id] = replace(listed, **changes), content


def honest_message(number: int) -> bytes:
    """A message as alice writes it; CRLF."""
    return f"From: Alice <alice@alpha.example>\r\nSubject: no. {number}\r\n\r\nText {number}\r\nFrom here\r\n".encode()


class ListMaildrop:
    """A maildrop in memory; ``failure`` is raised instead of the next delivery."""

    def __init__(self) -> None:
        self.messages: list[Delivery] = []
        self.failure: Exception | None = None

    def deliver(self, messages: Sequence[Delivery], committed: Committed) -> None:
        if self.failure is not None:
            raise self.failure
        self.messages += messages
        committed([message.id for message in messages])

    def recover(self, committed: Committed) -> None:
        committed([])


def make_account(
    directory: Path,
    maildrop: Maildrop | None = None,
    *certificates: Certificate,
    clock: Callable[[], float] = lambda: 1_700_000_000.0,
) -> Account:
    """Bob's account; without other certificates he knows alice."""
    directory.mkdir(exist_ok=True)
    keyring = FakeKeyring(*(certificates or [certificate(ALICE, ALICE_KEY)]))
    drop = maildrop or Mbox(directory / "mbox", 5.0)
    return Account(BOB, PlainIdentity(BOB, BOB_KEY), keyring, drop, directory, clock)
