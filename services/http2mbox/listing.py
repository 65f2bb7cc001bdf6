"""What a store lists, taken with suspicion: pages that cannot be, and who else has mail waiting. Sans-IO."""

import re
from collections.abc import Collection, Iterable

from services.http2mbox.contacts import Contacts
from services.http2mbox.state import OtherSender
from stubmail.errors import TemporaryError
from stubmail.store_answers import Listing, Other

_FINGERPRINT = re.compile(r"[0-9A-F]{40}([0-9A-F]{24})?")
_MAX_NUMBER = 2**63 - 1  # what SQLite can hold


def check_page(page: Listing, senders: Collection[str], after: int) -> None:
    """Raise TemporaryError for a page that no honest store answers with (protocol.md §5.3).

    ``senders`` were asked for, and posts behind the serial ``after``. Serials must grow, so that paging ends.
    """
    asked = frozenset(senders)
    serial = after
    for post in page.posts:
        if post.sender not in asked:
            raise TemporaryError("4.3.0", "the store lists posts of senders that were not asked for")
        if not serial < post.serial <= _MAX_NUMBER or not 0 <= post.size <= _MAX_NUMBER:
            raise TemporaryError("4.3.0", "the store lists impossible serials or sizes")
        serial = post.serial
    if len({post.id for post in page.posts}) != len(page.posts):
        raise TemporaryError("4.3.0", "the store lists a post twice")
    if page.more and not page.posts:
        raise TemporaryError("4.3.0", "the store says that there is more, but lists nothing")
    if not 0 <= page.serial <= _MAX_NUMBER:
        raise TemporaryError("4.3.0", "the store lists impossible serials")
    for other in page.others:
        if not _FINGERPRINT.fullmatch(other.sender) or not 0 <= other.count <= _MAX_NUMBER:
            raise TemporaryError("4.3.0", "the store lists impossible senders")


def others_of(others: Iterable[Other], contacts: Contacts, domain: str) -> list[OtherSender]:
    """Sort out who has mail waiting unasked: strangers, and correspondents of ``domain`` who use a key we do not know.

    A store may serve several domains. Correspondents at another domain are that domain's matter: its own records say
    which store speaks for it, and any other store could make up whom it likes.
    """
    found: list[OtherSender] = []
    for other in others:
        address = other.address
        known = contacts.certificates_for(address)
        if other.sender in known or (address.domain != domain and address.domain in contacts.domains):
            continue
        expected = ", ".join(sorted(known)) if address.domain == domain else ""
        found.append(OtherSender(other.sender, address.key, other.count, expected))
    return found
