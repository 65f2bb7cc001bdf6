"""The keyring: a GnuPG home that the user may manage with gpg itself, and the final authority on who is who."""

from pathlib import Path

from stubmail.address import Address
from stubmail.errors import PermanentError
from stubmail.openpgp import Certificate, Identity


class KeyConflict(PermanentError):
    """Another certificate is already there for the address; the keyring never replaces one."""

    def __init__(self, address: str, present: str, offered: str) -> None:
        super().__init__("5.7.5", f"the keyring already has key {present} for {address}; {offered} was not imported")
        self.address = address
        self.present = present
        self.offered = offered


class Keyring:
    """The keys in one GnuPG home; read again whenever gpg or anyone else has changed them."""

    def __init__(self, home: Path) -> None:
        """Use the GnuPG home directory ``home``, made when it is missing.

        Raises Exit when gpg is not installed or the path is too long for the agent's socket.
        """
        self.home = home

    def identity(self, address: Address, passphrase: str = "") -> Identity:
        """Return our own key for ``address``, unlocked. Raises PermanentError."""
        raise NotImplementedError

    def find(self, address: Address) -> Certificate | None:
        """Return the certificate for an address: exact before its base address, usable before not, then the newest."""
        raise NotImplementedError

    def by_fingerprint(self, fingerprint: str) -> Certificate | None:
        """Return the certificate with this fingerprint, of its primary key or of a subkey, in any case.

        A long key id (16 hex digits) will do when only one certificate has it.
        """
        raise NotImplementedError

    def correspondents(self) -> dict[str, list[Certificate]]:
        """Return everyone else's certificates by Address.key; certificates of our own secret keys are left out."""
        raise NotImplementedError

    def add(self, certificate: Certificate) -> bool:
        """Import a certificate; True when it is new, False when that fingerprint is already there (nothing changes).

        Raises KeyConflict when another certificate for one of its addresses is there.
        """
        raise NotImplementedError

    def generate(self, address: Address, name: str, passphrase: str = "") -> Certificate:
        """Make an ed25519/cv25519 key that does not expire, for ``name <address>``, and return its certificate."""
        raise NotImplementedError

    def export(self, address: Address) -> Certificate:
        """Return our own certificate for ``address``, to publish. Raises PermanentError when there is none."""
        raise NotImplementedError
