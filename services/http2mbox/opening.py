"""A fetched post becomes a message for the maildrop: decrypted and verified, or by order released with a warning."""

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from datetime import datetime

from services.http2mbox.account import Account, Arrival
from services.http2mbox.contacts import Contacts
from services.http2mbox.delivered import Receipt, delivered_form, released_form
from services.http2mbox.state import AccountTrouble
from services.http2mbox.trust import Untrusted, verify
from stubmail.address import Address
from stubmail.envelope import EnvelopeError, unwrap
from stubmail.log import event
from stubmail.openpgp import Certificate, CertificateOf, OpenPGPError, Sealed, Unsealed
from stubmail.store_answers import Listed

_log = logging.getLogger("http2mbox")


class Opening:
    """Opens posts of one account from one store; ``max_post`` bounds a message, in octets."""

    def __init__(
        self, account: Account, contacts: Contacts, store_host: str, max_post: int, now: Callable[[], datetime]
    ) -> None:
        self._account = account
        self._contacts = contacts
        self._store_host = store_host
        self._max_post = max_post
        self._now = now
        self._released: dict[tuple[bytes, str], Untrusted | None] = {}

    def release(self, post: Listed, verdict: Untrusted | None) -> None:
        """Have a post delivered whatever is wrong with it; ``verdict``: why it would not even be fetched."""
        self._released[post.id, post.sender] = verdict

    def open_all(
        self, posts: Sequence[Listed], content: Callable[[Listed], bytes]
    ) -> Generator[tuple[Listed, Arrival | Untrusted]]:
        """Yield each post, in order, and what is to be delivered of it, or why nothing is.

        ``content`` returns a post's octets; it is asked some way ahead. Raises AccountTrouble when our own key fails.
        """
        sealed = (Sealed(content(post), self._certificates(post.sender)) for post in posts)
        with closing(self._account.identity.unseal_all(sealed, self._max_post)) as results:
            for post, result in zip(posts, results, strict=True):
                try:
                    yield post, self._opened(post, result, content)
                except Untrusted as verdict:
                    yield post, verdict

    def _opened(self, post: Listed, result: Unsealed | OpenPGPError, content: Callable[[Listed], bytes]) -> Arrival:
        key = post.id, post.sender
        verdict = self._released.get(key)
        if verdict is None:
            try:
                return self._verified(post, result)
            except Untrusted as error:
                if key not in self._released:
                    raise
                verdict = error
        return self._unverified(post, content(post), verdict)

    def _certificates(self, sender: str) -> CertificateOf:
        def certificate_of(name: str) -> Certificate | None:
            # Anybody else in the keyring is looked up only to say who it was that signed.
            return self._contacts.signer(name, sender) or self._account.keyring.by_fingerprint(name)

        return certificate_of

    def _verified(self, post: Listed, result: Unsealed | OpenPGPError) -> Arrival:
        if isinstance(result, OpenPGPError):
            raise _translated(result, post) from result
        verified = verify(result, post, self._account.recipient, self._contacts)
        receipt = self._receipt(post, verified.sender)
        return Arrival((post.id, post.sender), verified.sender, delivered_form(verified.message, receipt))

    def _unverified(self, post: Listed, content: bytes, verdict: Untrusted) -> Arrival:
        """What cannot even be decrypted stays held."""
        try:
            message = self._account.identity.decrypt(content, self._max_post)
        except OpenPGPError as error:
            raise _translated(error, post) from error
        with suppress(EnvelopeError):
            _, message = unwrap(message)
        to = self._account.address
        event(_log, "released", post.id.hex(), level=logging.WARNING, reason=verdict.reason, sender=post.address, to=to)
        form = released_form(message, self._receipt(post, post.address), verdict.reason, verdict.text)
        return Arrival((post.id, post.sender), post.address, form)

    def _receipt(self, post: Listed, sender: Address) -> Receipt:
        return Receipt(self._store_host, self._account.address, post.id, sender, post.sender, self._now())


def _translated(error: OpenPGPError, post: Listed) -> Exception:
    if error.reason == "wrong-passphrase":
        return AccountTrouble("4.7.0", error.text)
    return Untrusted.unopened(error, post)
