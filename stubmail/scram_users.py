"""What SCRAM-SHA-256 needs of a users file's accounts, and of those that it does not have."""

import hashlib
import hmac

from stubmail import scram
from stubmail.passwords import plain_secret, scram_keys
from stubmail.users import User, Users


class ScramUsers:
    """``offered``: SCRAM works for every account that can log in; clients that find it try nothing else."""

    def __init__(self, users: Users) -> None:
        self._users = users
        passwords = [user.password for user in users if user.password]
        kept = [keys for password in passwords if (keys := scram_keys(password)) is not None]
        self.offered = bool(passwords) and all(plain_secret(each) or scram_keys(each) for each in passwords)
        self._iterations = kept[0].iterations if kept else scram.ITERATIONS
        self._salt_size = len(kept[0].salt) if kept else scram.SALT_SIZE
        # A name that nobody has must have the same salt each time, after a restart too, or it tells that nobody has it.
        self._secret = hashlib.blake2b("\0".join(user.password for user in users).encode()).digest()

    def keys(self, name: bytes) -> scram.Keys:
        """Return the keys for a name, made up when nobody has it. CPU-bound for milliseconds."""
        user = self.find(name)
        stored = user.password if user is not None else ""
        salt = hmac.digest(self._secret, name.lower(), "sha256")
        salt = (salt * (self._salt_size // len(salt) + 1))[: self._salt_size]
        unknown = hmac.digest(self._secret, b"nobody knows " + name, "sha256").hex()
        made = scram.derive(plain_secret(stored) or unknown, salt, self._iterations)
        return scram_keys(stored) or made

    def find(self, name: bytes) -> User | None:
        """Return the account with this name or address, in UTF-8."""
        try:
            return self._users.find(name.decode())
        except UnicodeDecodeError:
            return None
