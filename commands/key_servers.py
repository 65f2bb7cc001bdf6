"""What `stubmail keys` asks the key servers of correspondents' domains."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from stubmail import settings
from stubmail.address import Address
from stubmail.discovery import Resolver, StubDomain
from stubmail.errors import Exit, PermanentError, TemporaryError
from stubmail.hkp_client import look_up
from stubmail.http_client import HttpClient
from stubmail.key_refresh import Refreshed, refresh
from stubmail.keyring import Keyring
from stubmail.openpgp import Certificate
from stubmail.settings import Dns

_NONE = "4.7.5"  # of stubmail.hkp: the key server has nothing to use


class KeyServers:
    """The key servers that DNS names, for one run of a command."""

    def __init__(self, config: Path) -> None:
        """Ask the resolver of [dns] in stub.conf, if there is such a file. Raises ConfigError."""
        try:
            data = settings.load_file(config)
        except settings.MissingConfig:  # the keyring may have been named by --gnupghome
            data = {}
        self._resolver = Resolver.from_settings(settings.read(data, "dns", Dns))
        self._http = HttpClient(self._resolver)

    def look_up(self, address: Address) -> Certificate:
        """Ask the key servers of the address's domain, in order, for a certificate to use.

        Raises Exit when those that answer have none, and StubmailError.
        """
        offer = self._offer(address)
        failure = TemporaryError(_NONE, f"{address.domain} names no key server")
        for target in offer.keyservers:
            try:
                return look_up(self._http, target, address, datetime.now(UTC))
            except TemporaryError as error:
                failure = error
        if failure.code != _NONE:
            raise failure
        # Mail may wait for a key that is published meanwhile; who has asked for it is told that there is none.
        raise Exit(os.EX_NOUSER, f"{failure.text}; ask its owner to publish one, nothing was imported")

    def refresh(self, keyring: Keyring, address: Address) -> Refreshed | None:
        """Ask for news of the keyring's key for an address. Raises StubmailError and OSError."""
        return refresh(keyring, self._http, self._offer(address), address, time.time())

    def has_none(self, address: Address) -> bool:
        """Whether DNS says that the address's domain has no stub mail, and so no key server. Raises StubmailError."""
        return self._resolver.discover(address.domain) is None

    def _offer(self, address: Address) -> StubDomain:
        offer = self._resolver.discover(address.domain)
        if offer is None:
            raise PermanentError("5.4.4", f"{address.domain} has no stub mail records: it names no key server")
        return offer
