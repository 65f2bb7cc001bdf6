"""HKP lookups (draft-gallagher-openpgp-hkp): the question for an address, and which answer to accept. Does no I/O."""

from collections.abc import Callable
from datetime import datetime

from stubmail.address import Address
from stubmail.openpgp import Certificate


def lookup_path(address: Address) -> str:
    """Return the path and query that ask a key server for an address's certificate."""
    raise NotImplementedError


def choose(body: bytes, address: Address, now: datetime) -> Certificate:
    """Return the one usable certificate for exactly this address in a key server's answer.

    Raises TemporaryError 4.7.5 when there is none (the domain may publish one later), PermanentError when the
    answer is not one that can be chosen from.
    """
    raise NotImplementedError


def fetch_certificate(get: Callable[[str], bytes], address: Address, now: datetime) -> Certificate:
    """Ask with ``get`` (path and query in, body out; b"" when nothing is found) and choose."""
    return choose(get(lookup_path(address)), address, now)
