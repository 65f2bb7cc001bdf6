"""The rules by which a post is believed or held (protocol.md §7.4), each with a word and a sentence. Sans-IO."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from services.http2mbox.contacts import Contacts
from services.http2mbox.header import fields, has_bare_cr
from stubmail.address import Address
from stubmail.envelope import EnvelopeError, tag, unwrap
from stubmail.mailbox import MailboxError, parse_mailbox
from stubmail.openpgp import OpenPGPError, Unsealed
from stubmail.store_answers import Listed

KEY_MISMATCH = frozenset(("key-mismatch", "signer-mismatch", "unknown-signer"))  # somebody else's key: tell the user

TOO_LARGE = "too-large"
REFUSED = "maildrop"  # no rule of §7.4: the account's own delivery program does not want it

_mailbox = lru_cache(maxsize=256)(parse_mailbox)  # the same few people write again and again


class Untrusted(Exception):
    """A post breaks a rule and is held.

    ``reason`` is one stable word, ``text`` a sentence for the user; ``found`` is the fingerprint that came with the
    post and ``expected`` those of the keyring, where the reason is about keys.
    """

    def __init__(self, reason: str, text: str, found: str = "", expected: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.found = found
        self.expected = expected

    @property
    def is_key_mismatch(self) -> bool:
        """Whether somebody uses another key than the keyring's for one of our correspondents."""
        return self.reason in KEY_MISMATCH

    @classmethod
    def unopened(cls, error: OpenPGPError, listed: Listed) -> "Untrusted":
        """The verdict on a post that could not be decrypted or whose signature is not good (rules 1 and 2)."""
        return cls(error.reason, error.text, expected=listed.sender)


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whose mail it is: the account's address and its own certificate's fingerprint."""

    address: Address
    fingerprint: str


class Verified(NamedTuple):
    """A message that may be delivered: the sender that signed it, and the message's octets."""

    sender: Address
    message: bytes


def admit(listed: Listed, contacts: Contacts, now: datetime, max_size: int) -> None:
    """Judge a post by what the store says of it, before it is fetched; ``max_size`` is in octets. Raises Untrusted."""
    known = contacts.fingerprints(listed.address)
    if listed.sender not in known:
        text = f"the post is said to be from {listed.address}, but with key {listed.sender}, which is not his"
        raise Untrusted("key-mismatch", text, listed.sender, ", ".join(sorted(known)))
    if problem := contacts.problem(listed.sender, now):
        raise Untrusted(problem, f"the key {listed.sender} of {listed.address} is {problem}", listed.sender)
    if listed.size > max_size:
        raise Untrusted(TOO_LARGE, f"the post has {listed.size} octets; {max_size} are allowed")


def verify(unsealed: Unsealed, listed: Listed, recipient: Recipient, contacts: Contacts) -> Verified:
    """Judge a post that decrypted and bears a valid signature, by the rules that remain. Raises Untrusted."""
    try:
        envelope, message = unwrap(unsealed.data)
    except EnvelopeError as error:
        raise Untrusted("envelope", str(error)) from error
    known = contacts.fingerprints(envelope.sender)
    if unsealed.signer not in known:  # rule 2
        text = f"the message claims to be from {envelope.sender}, but {unsealed.signer} signed it"
        raise Untrusted("key-mismatch", text, unsealed.signer, ", ".join(sorted(known)))
    if unsealed.signer != listed.sender:  # rule 3
        text = f"the store named key {listed.sender}, but {unsealed.signer} signed the message"
        raise Untrusted("signer-mismatch", text, unsealed.signer, listed.sender)
    if tag(listed.id, recipient.fingerprint, recipient.address) not in envelope.tags:  # rule 4
        raise Untrusted("recipient", f"{envelope.sender} did not address this post to {recipient.address}")
    if _author(message).key != envelope.sender.key:  # rule 5
        raise Untrusted("from", f"the From: header is not that of the signer {envelope.sender}")
    return Verified(envelope.sender, message)


def _author(message: bytes) -> Address:
    """Return the one address of the one ``From:`` field. Raises Untrusted."""
    if has_bare_cr(message):
        raise Untrusted("from", "the message's header holds a carriage return that ends no line")
    found = [value for _, _, value in fields(message, b"From")]
    if len(found) != 1:
        raise Untrusted("from", f"the message has {len(found) or 'no'} From: headers; there must be one")
    try:
        return _mailbox(found[0].decode("utf-8", "replace"))
    except MailboxError as error:
        raise Untrusted("from", f"the From: header does not hold exactly one address: {error}") from error
