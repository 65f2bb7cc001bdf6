"""Asks a domain's key server for a key that is in the keyring already: what is new about it, or whether it is another.

The same key's new signatures are taken in, be it a later expiry or a revocation. Another key is noted and reported,
and not used until a person accepts it (protocol.md §8).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from stubmail.address import Address
from stubmail.discovery import StubDomain
from stubmail.errors import TemporaryError
from stubmail.hkp import choose, version_of
from stubmail.hkp_client import ask, in_turn
from stubmail.http_client import HttpClient
from stubmail.keyring import Keyring
from stubmail.openpgp import Certificate


class State(StrEnum):
    """What came of it."""

    SAME = "same"
    UPDATED = "updated"  # the keyring's key has a new expiry, subkey or revocation
    CHANGED = "changed"  # the key server has another key
    UNPUBLISHED = "unpublished"  # the key server has no key to use for the address


@dataclass(frozen=True, slots=True)
class Refreshed:
    """``present``: the keyring's certificate, as it is now; ``offered``: another one that the key server has instead.

    ``news``: that other one was not known before.
    """

    state: State
    present: Certificate
    offered: Certificate | None = None
    news: bool = False


def refresh(keyring: Keyring, http: HttpClient, offer: StubDomain, address: Address, now: float) -> Refreshed | None:
    """Ask for the certificate that the keyring has for just this address; None when it has none.

    Raises TemporaryError when no key server answers, PermanentError when gpg does not take what is new, OSError when
    the GnuPG home cannot be written.
    """
    present = keyring.find(address)
    if present is None or address.key not in present.addresses:
        return None
    body = _ask_all(http, offer, address)
    version = version_of(present, body, address)
    updated = version is not None and keyring.update(version)
    present = keyring.by_fingerprint(present.fingerprint) or present
    when = datetime.fromtimestamp(now, UTC)
    if version is not None and present.problem(when) is None:
        keyring.changes.settle(address)
        return Refreshed(State.UPDATED if updated else State.SAME, present)
    other = _other(keyring, body, address, when)
    if other is not None:
        return Refreshed(State.CHANGED, present, other, keyring.changes.note(address, other, now))
    state = State.UPDATED if updated else State.SAME if version is not None else State.UNPUBLISHED
    return Refreshed(state, present)


def _other(keyring: Keyring, body: bytes, address: Address, when: datetime) -> Certificate | None:
    """Return the usable certificate in an answer, unless it is one of several that the user has for the address."""
    try:
        offered = choose(body, address, when)
    except TemporaryError:
        return None
    known = keyring.by_fingerprint(offered.fingerprint)
    return None if known is not None and address.key in known.addresses else offered


def _ask_all(http: HttpClient, offer: StubDomain, address: Address) -> bytes:
    """Return the answer of the first key server that gives one. Raises TemporaryError."""
    failure = TemporaryError("4.7.5", f"{offer.domain} names no key server")
    for target in in_turn(offer.keyservers):
        try:
            return ask(http, target, address)
        except TemporaryError as error:
            failure = error
    raise failure
