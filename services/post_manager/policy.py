"""The accounts file: who of the domain may store posts, and how many (protocol.md §5.2)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.post_manager.storage.posts import Terms
from stubmail.address import Address, AddressError
from stubmail.settings import ConfigError, MissingConfig, load_file

DAY = 86_400  # seconds
LIMITS = ("quota_posts", "quota_bytes", "max_post", "lifetime_days", "rate")


@dataclass(frozen=True, slots=True)
class Account:
    """One account: who may store, and on which terms; ``rate`` in requests a second over all sessions, 0: any."""

    name: str
    address: Address
    fingerprint: str
    terms: Terms
    rate: int | None = None  # None: what every client may


class Accounts:
    """All accounts, found by fingerprint and address together."""

    def __init__(self, accounts: list[Account]) -> None:
        self._accounts = {(account.fingerprint, account.address.key): account for account in accounts}
        self._fingerprints = frozenset(account.fingerprint for account in accounts)

    def __len__(self) -> int:
        return len(self._accounts)

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def find(self, fingerprint: str, address: str) -> Account | None:
        """Return the account with this fingerprint and this address, whose key (Address.key) is given."""
        return self._accounts.get((fingerprint, address))

    def of(self, fingerprint: str, address: Address | str) -> Account | None:
        """Return the account of somebody who has shown to be this; most are no account, and that is seen at once."""
        if fingerprint not in self._fingerprints:
            return None
        return self.find(fingerprint, (Address.parse(address) if isinstance(address, str) else address).key)


def load_accounts(path: Path, defaults: Terms) -> Accounts:
    """Read an accounts file; what an account leaves out is taken from ``defaults``. Raises ConfigError.

    A table for each account: ``[accounts.alice]`` with ``address`` and ``fingerprint``, and if need be
    ``quota_posts``, ``quota_bytes``, ``max_post`` (octets), ``lifetime_days`` and ``rate`` (requests a second).
    """
    try:
        data = load_file(path)
    except MissingConfig:
        raise ConfigError(f"there is no accounts file {path}; `post_manager accounts add` makes one") from None
    return parse_accounts(path, data, defaults)


def parse_accounts(path: Path, data: Mapping[str, Any], defaults: Terms) -> Accounts:
    """Return the accounts of a file that was read already; ``path`` is for the error. Raises ConfigError."""
    tables = data.get("accounts", {})
    if set(data) - {"accounts"} or not isinstance(tables, Mapping):
        raise ConfigError(f"{path} may hold nothing but tables such as [accounts.alice]")
    accounts = [_parse(path, name, table, defaults) for name, table in tables.items()]
    seen: dict[tuple[str, str], str] = {}
    for account in accounts:
        other = seen.setdefault((account.fingerprint, account.address.key), account.name)
        if other != account.name:
            raise ConfigError(f"{path}: [accounts.{other}] and [accounts.{account.name}] are the same")
    return Accounts(accounts)


def _parse(path: Path, name: str, table: Any, defaults: Terms) -> Account:
    where = f"{path}: [accounts.{name}]"
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table")
    known = ("address", "fingerprint", *LIMITS)
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    for key in ("address", "fingerprint"):
        if not isinstance(table.get(key), str):
            raise ConfigError(f"{where} needs a text {key}")
    for key in LIMITS:
        value = table.get(key, 1)
        if type(value) is not int or not (key == "lifetime_days") <= value < 2**40:
            raise ConfigError(f"{where}: {key} must be a whole number")
    try:
        address = Address.parse(table["address"])
    except AddressError as error:
        raise ConfigError(f"{where}: {error}") from error
    terms = Terms(
        quota_posts=table.get("quota_posts", defaults.quota_posts),
        quota_octets=table.get("quota_bytes", defaults.quota_octets),
        max_post=min(table.get("max_post", defaults.max_post), defaults.max_post),
        lifetime=table["lifetime_days"] * DAY if "lifetime_days" in table else defaults.lifetime,
    )
    return Account(name, address, _fingerprint(where, table["fingerprint"]), terms, table.get("rate"))


def _fingerprint(where: str, text: str) -> str:
    fingerprint = text.replace(" ", "").upper()  # as gpg prints it
    if len(fingerprint) not in (40, 64) or set(fingerprint) - set("0123456789ABCDEF"):
        raise ConfigError(f"{where}: fingerprint must be a whole one, 40 or 64 hex digits")
    return fingerprint
