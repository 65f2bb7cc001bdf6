"""What SCRAM-SHA-256 needs of a users file's accounts, and of those that it does not have."""

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from stubmail import scram
from stubmail.passwords import plain_secret, scram_keys
from stubmail.users import User, Users

MACHINE_ID = Path("/etc/machine-id")  # machine-id(5): the same after a restart, and not to be told as it is

_OF_THIS_PROCESS = secrets.token_bytes(32)
_ID = re.compile(r"[0-9a-f]{32}\n?")


class ScramUsers:
    """``offered``: SCRAM works for every account that can log in; clients that find it try nothing else.

    ``secret`` decides which salt a name gets that has none of its own. It must not depend on any password: salts are
    told to everybody, who could then try out passwords without asking.
    """

    def __init__(self, users: Users, secret: bytes | None = None) -> None:
        self._users = users
        passwords = [user.password for user in users if user.password]
        kept = [keys for password in passwords if (keys := scram_keys(password)) is not None]
        self.offered = bool(passwords) and all(plain_secret(each) or scram_keys(each) for each in passwords)
        self._iterations = kept[0].iterations if kept else scram.ITERATIONS
        self._salt_size = len(kept[0].salt) if kept else scram.SALT_SIZE
        self._secret = secret or machine_secret()

    def keys(self, name: bytes) -> scram.Keys:
        """Return the keys for a name, made up when nobody has it. CPU-bound for milliseconds."""
        user = self.find(name)
        stored = user.password if user is not None else ""
        salt = hmac.digest(self._secret, name.lower(), "sha256")
        salt = (salt * (self._salt_size // len(salt) + 1))[: self._salt_size]
        made = scram.derive(plain_secret(stored) or secrets.token_hex(), salt, self._iterations)
        return scram_keys(stored) or made

    def find(self, name: bytes, identity: bytes = b"") -> User | None:
        """Return the account with this name or address, in UTF-8; ``identity`` as in Users.find."""
        try:
            return self._users.find(name.decode(), identity.decode())
        except UnicodeDecodeError:
            return None


def machine_secret() -> bytes:
    """Return octets that no stranger can guess and that are the same after a restart, where the machine has an id.

    A name that nobody has must keep its salt, as accounts do that keep theirs in the users file. Elsewhere it gets
    another one when the service is started again.
    """
    try:
        identity = MACHINE_ID.read_text()
    except (OSError, UnicodeDecodeError):
        identity = ""
    key = identity.encode() if _ID.fullmatch(identity) else _OF_THIS_PROCESS
    return hashlib.blake2b(b"stubmail: salts for SCRAM", key=key).digest()
