"""[keyserver] in stub.conf."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from stubmail.address import AddressError, parse_domain
from stubmail.settings import ConfigError, items, setting

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Keyserver:
    """[keyserver]: whose certificates are served, from where, and who may bring new ones."""

    keys: Path = setting(doc="the directory with one certificate a file (*.asc, *.pgp, *.gpg)")
    listen: str = setting("127.0.0.1:11371", "HOST:PORT for HKP")
    domain: str = setting("", "the mail domain whose users' certificates are served; default: [domain] name")
    submit_from: list[str] = items(
        ["127.0.0.0/8", "::1/128"],
        "networks whose clients may bring a certificate for an address that has none; through a proxy nobody may",
    )
    read_only: bool = setting(False, "take no certificates at all; the directory may then be read-only too")
    threads: int = setting(32, "how many requests are answered at a time")

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be meant."""
        try:
            if self.domain:
                object.__setattr__(self, "domain", parse_domain(self.domain))
        except AddressError as error:
            raise ConfigError(f"[keyserver] domain: {error}") from error
        if not 1 <= self.threads <= 256:
            raise ConfigError("[keyserver] threads must be from 1 to 256")
        _ = self.networks

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks in ``submit_from``."""
        try:
            return tuple(ipaddress.ip_network(text) for text in self.submit_from)
        except ValueError as error:
            raise ConfigError(f"[keyserver] submit_from: {error}") from error
