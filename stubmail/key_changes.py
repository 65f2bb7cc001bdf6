"""Certificates that a key server offers in place of the one in the keyring: kept aside for a person to judge, not used.

They lie in the GnuPG home, one file for each address, so that what a person accepts is what was reported.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stubmail.address import Address, AddressError
from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.openpgp.certificate import MAX_ARMORED
from stubmail.spool import remove_durably, write_durably

DIRECTORY = "stubmail-changes"  # in the GnuPG home
MAX_CHANGES = 1000  # addresses; an account that has more of them has other troubles
_MAX_FILE = MAX_ARMORED + 4096  # octets


@dataclass(frozen=True, slots=True)
class Change:
    """What a key server offered for an address, and when that was first seen, in Unix time."""

    address: Address
    certificate: Certificate
    seen: float


class KeyChanges:
    """The changes noted in one GnuPG home; may be used by several threads and processes."""

    def __init__(self, home: Path) -> None:
        """Use the GnuPG home ``home``; nothing is written there before there is something to note."""
        self._directory = home / DIRECTORY

    def __iter__(self) -> Iterator[Change]:
        """Yield all changes, by address."""
        found = (self._read(path) for path in self._directory.glob("*.json"))
        yield from sorted((change for change in found if change), key=lambda change: change.address.key)

    def of(self, address: Address) -> Change | None:
        """Return the change for an address, None when there is none."""
        change = self._read(self._path(address))
        return change if change and change.address.key == address.key else None

    def note(self, address: Address, certificate: Certificate, now: float) -> bool:
        """Keep what is offered for an address; False when it was known before. Raises OSError.

        When there are too many already it is not kept, and counts as news each time.
        """
        known = self.of(address)
        if known is not None and known.certificate.fingerprint == certificate.fingerprint:
            return False
        if known is None and sum(1 for _ in self._directory.glob("*.json")) >= MAX_CHANGES:
            return True
        data = {"address": str(address), "seen": int(now), "certificate": certificate.armored().decode("ascii")}
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self._path(address), json.dumps(data).encode())
        return True

    def settle(self, address: Address) -> bool:
        """Forget the change for an address; False when there was none. Raises OSError."""
        path = self._path(address)
        if not path.exists():
            return False
        remove_durably(path)
        return True

    def _path(self, address: Address) -> Path:
        return self._directory / f"{hashlib.sha256(address.key.encode()).hexdigest()[:32]}.json"

    def _read(self, path: Path) -> Change | None:
        """Read a file; what is not there or was damaged is no change: the key server will be asked again."""
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError, AddressError, OpenPGPError):
            with path.open("rb") as file:
                data = json.loads(file.read(_MAX_FILE))
            address = Address.parse(data["address"])
            return Change(address, Certificate.parse(data["certificate"].encode("ascii")), float(data["seen"]))
        return None
