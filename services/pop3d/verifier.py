"""Whether credentials are those of a user, whatever mechanism they came by; every refusal takes the same time."""

import hashlib
import hmac
import secrets

from services.pop3d.actions import Credentials, DigestLogin, Login, ScramLogin
from stubmail import scram
from stubmail.passwords import plain_secret, scram_keys
from stubmail.saslprep import PrepError, saslprep
from stubmail.scram_users import ScramUsers
from stubmail.users import User, Users


class Verifier:
    """Knows the users of one users file. Methods take a processor for milliseconds: call them off the event loop.

    ``secret``: see ScramUsers.
    """

    def __init__(self, users: Users, secret: bytes | None = None) -> None:
        self.users = users
        served = [user.password for user in users if user.password and user.maildrop]
        plain = [bool(plain_secret(password)) for password in served]
        kept = [password for password in served if scram_keys(password) is not None]
        self.challenges = any(plain)
        """Whether some account's secret is kept as it is."""
        self.mechanisms = (
            *(("SCRAM-SHA-256",) if served and len(kept) + sum(plain) == len(served) else ()),
            *(("CRAM-MD5",) if served and all(plain) else ()),
        )
        """Those that work for every account, and do not send its password."""
        self._scram = ScramUsers(users, secret)
        self._nobodys = secrets.token_hex()

    def check(self, credentials: Credentials) -> User | None:
        """Return the user that these credentials belong to."""
        match credentials:
            case Login():
                return self._check_password(credentials)
            case DigestLogin():
                return self._check_digest(credentials)
            case ScramLogin():
                user = self.find(credentials.name, credentials.identity)
                able = user is not None and (plain_secret(user.password) or scram_keys(user.password))
                return user if able and credentials.proven else None

    def keys(self, name: bytes) -> scram.Keys:
        """Return what SCRAM needs of the user with this name, or what looks like it when there is none."""
        try:
            return self._scram.keys(prepared(name.decode()).encode())
        except UnicodeDecodeError:
            return self._scram.keys(name)

    def find(self, name: bytes, identity: bytes = b"") -> User | None:
        """Return the user with this name or address, in UTF-8; ``identity`` as in Users.find."""
        try:
            return self.users.find(prepared(name.decode()), prepared(identity.decode()))
        except UnicodeDecodeError:
            return None

    def _check_password(self, login: Login) -> User | None:
        """Check a name and a password as they came; both are UTF-8 in the users file."""
        try:
            name, identity = prepared(login.name.decode()), prepared(login.identity.decode())
            password = login.password.decode()
        except UnicodeDecodeError:  # cannot match, must take as long
            self.users.authenticate("", login.password.decode("utf-8", "replace"))
            return None
        user = self.users.authenticate(name, prepared(password), identity)
        if user is None and prepared(password) != password:  # the users file may have it as it was typed
            user = self.users.authenticate(name, password, identity)
        return user

    def _check_digest(self, login: DigestLogin) -> User | None:
        user = self.find(login.name)
        secret = plain_secret(user.password) if user is not None else ""
        key = (secret or self._nobodys).encode(errors="surrogatepass")
        if login.mechanism == "APOP":
            expected = hashlib.md5(login.challenge + key, usedforsecurity=False).hexdigest()  # RFC 1939 §7
        else:
            expected = hmac.new(key, login.challenge, "md5").hexdigest()  # RFC 2195 §2
        good = hmac.compare_digest(expected.encode(), login.digest)
        return user if good and secret else None


def prepared(text: str) -> str:
    """Return a name or password as it is compared (RFC 6856 §2.2); what may be neither is left as it is: it is unknown.

    ASCII stays as it is: passwords of before RFC 4013 may hold anything.
    """
    if text.isascii():
        return text
    try:
        return saslprep(text)
    except PrepError:
        return "\0"
