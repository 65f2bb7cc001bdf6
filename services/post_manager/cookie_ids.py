"""Cookie ids that the store tells from made-up ones by themselves: a flood of those costs no look into the database.

Ten octets are random, six are a MAC over them under the store's key. To clients an id is 16 octets (protocol.md §6).
"""

import hmac
import secrets

from stubmail.datagram import MacKey

_RANDOM, _TAG = 10, 6  # octets
_PURPOSE = b"stubmail cookie 1\0"


class CookieIds:
    """Makes cookie ids under the store's key, and recognizes them."""

    def __init__(self, store_key: bytes) -> None:
        self._key = MacKey(store_key)

    def new(self) -> bytes:
        """Return an id that was never used before, 16 octets."""
        octets = secrets.token_bytes(_RANDOM)
        return octets + self._tag(octets)

    def made_here(self, cookie_id: bytes) -> bool:
        """Tell whether an id was made under the store's key; it may have been deleted since."""
        return hmac.compare_digest(cookie_id[_RANDOM:], self._tag(cookie_id[:_RANDOM]))

    def _tag(self, octets: bytes) -> bytes:
        return self._key.mac(_PURPOSE + octets)[:_TAG]
