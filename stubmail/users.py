"""The users file: TOML tables ``[users.NAME]`` that pop3d, smtp2stub and http2mbox read, each what it needs of them."""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stubmail.address import Address, AddressError
from stubmail.passwords import check_password, cost, decoy, is_usable
from stubmail.settings import ConfigError, MissingConfig, load_file

_MAILDROP = re.compile(r"(mbox|maildir|pipe):.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class User:
    """One account; what a service does not need may be absent from its copy of the file.

    ``password`` is ``{ARGON2ID}…``, ``{SCRAM-SHA-256}…`` or ``{PLAIN}…`` (stubmail.passwords);
    ``maildrop`` is ``mbox:PATH``, ``maildir:PATH`` or ``pipe:COMMAND`` (words as in a shell, but no shell);
    ``gnupghome`` is the GnuPG home with the account's own key and keyring; ``passphrase_file`` holds its passphrase.
    Paths in the file may be relative to the file's own directory; here they are not.
    """

    name: str
    address: Address | None = None
    password: str = dataclasses.field(default="", repr=False)
    maildrop: str = ""
    gnupghome: Path | None = None
    passphrase_file: Path | None = None

    def passphrase(self) -> str:
        """Read the secret key's passphrase; empty when none is set. Raises ConfigError when the file is unreadable."""
        if self.passphrase_file is None:
            return ""
        try:
            return self.passphrase_file.read_text().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"user {self.name}: cannot read {self.passphrase_file}: {error}") from error


class Users:
    """All accounts of a users file, found by name or by address. Raises ConfigError when two go by the same one."""

    def __init__(self, users: list[User]) -> None:
        self._users = users
        # The dearest entry in use, so that neither a wrong password nor an unknown name stands out.
        self._decoy = decoy(max((user.password for user in users if user.password), key=cost, default="{PLAIN}"))
        self._by_login: dict[str, User] = {}
        for user in users:
            for login in {user.name.lower()} | ({user.address.key} if user.address else set()):
                if login in self._by_login:
                    raise ConfigError(f"users {self._by_login[login].name} and {user.name} are both {login!r}")
                self._by_login[login] = user

    def __iter__(self) -> Iterator[User]:
        return iter(self._users)

    def __len__(self) -> int:
        return len(self._users)

    def authenticate(self, login: str, password: str, identity: str = "") -> User | None:
        """Return the user whom this name or address and password belong to; ``identity`` as in ``find``.

        Every refusal costs the same time: an unknown login, an account without a password, which can never log in,
        an identity that is another's, even when the password is right, and a wrong password under a scheme that is
        checked faster than others in use. CPU-bound, see check_password.
        """
        user = self.find(login)
        stored = user.password if user is not None else ""
        if stored and check_password(stored, password) and self.find(login, identity) is user:
            return user
        if not stored or cost(stored) < cost(self._decoy):
            check_password(self._decoy, password)
        return None

    def find(self, login: str, identity: str = "") -> User | None:
        """Return the user whose name or address ``login`` is, in any case: ``alice``, ``alice@alpha.example``.

        ``identity`` is whom he would act as, SASL's authorization identity (RFC 4616 §2); empty for himself. He may
        give any of his own names there; nobody is found when it is somebody else's, or nobody's.
        """
        user = self._named(login)
        return user if not identity or self._named(identity) is user else None

    def _named(self, login: str) -> User | None:
        user = self._by_login.get(login.lower())
        if user is None and "@" in login:
            try:
                user = self._by_login.get(Address.parse(login).key)
            except AddressError:
                return None
        return user


def load_users(path: Path) -> Users:
    """Read a users file. Raises ConfigError that names the user and the key that is wrong."""
    try:
        tables = load_file(path).get("users")
    except MissingConfig:
        raise ConfigError(f"there is no users file {path}; `stubmail provision` makes one, with keys") from None
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f'{path} has no users; add a table such as [users.bob] with password = "{{PLAIN}}…"')
    return Users([_parse(name, table, path) for name, table in tables.items()])


def _parse(name: str, table: Any, path: Path) -> User:
    known = {field.name for field in dataclasses.fields(User)} - {"name"}
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise ConfigError(f"{path}: [users.{name}] must be a table of texts")
    if unknown := sorted(set(table) - known):
        raise ConfigError(f"{path}: unknown key {unknown[0]!r} in [users.{name}]; known are {', '.join(sorted(known))}")
    values: dict[str, Any] = dict(table)
    if "password" in table and not is_usable(table["password"]):
        schemes = "{PLAIN}PASSWORD, {SCRAM-SHA-256}KEYS or {ARGON2ID}HASH"
        raise ConfigError(f"{path}: password of [users.{name}] must be {schemes}")
    if "maildrop" in table and not _MAILDROP.fullmatch(table["maildrop"]):
        raise ConfigError(f"{path}: maildrop of [users.{name}] must be mbox:PATH, maildir:PATH or pipe:COMMAND")
    if "maildrop" in table:
        kind, _, place = table["maildrop"].partition(":")
        values["maildrop"] = f"{kind}:{place if kind == 'pipe' else path.parent / place}"
    if "address" in table:
        try:
            values["address"] = Address.parse(table["address"])
        except AddressError as error:
            raise ConfigError(f"{path}: address of [users.{name}]: {error}") from error
    for key in ("gnupghome", "passphrase_file"):
        if key in table:
            values[key] = path.parent / table[key]
    return User(name=name, **values)
