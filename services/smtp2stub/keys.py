"""Recipients' certificates: from the keyring, else from the key server of the recipient's domain (protocol.md §8)."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from stubmail.address import Address
from stubmail.discovery import StubDomain
from stubmail.errors import PermanentError, StubmailError, TemporaryError
from stubmail.hkp_client import in_turn, look_up
from stubmail.http_client import HttpClient
from stubmail.key_refresh import Refreshed, State, refresh
from stubmail.keyring import KeyConflict, Keyring
from stubmail.log import event
from stubmail.openpgp import Certificate

REFRESH_SECONDS = 86_400.0  # after which a correspondent's key server is asked again
UNUSABLE_SECONDS = 300.0  # the same, for a key that has expired or been revoked: mail waits for a new one
MAX_ASKED = 10_000  # addresses of which it is known when they were asked for

_PROBLEMS = {
    "revoked": "has been revoked",
    "expired": "has expired",
    "cannot-encrypt": "cannot be used for encryption",
}

_log = logging.getLogger("smtp2stub.courier")


@dataclass(frozen=True, slots=True)
class Addressee:
    """Whom a post is for: the address that the certificate bears, and the certificate.

    The address may be the base of the one that was written to: a puller knows its account by that.
    """

    address: Address
    certificate: Certificate


class Keys:
    """Finds certificates for what one account writes; safe to use from several threads."""

    def __init__(
        self,
        keyring: Keyring,
        http: HttpClient,
        clock: Callable[[], float],
        *,
        account: Address | None = None,
        refresh_seconds: float = REFRESH_SECONDS,
        count: Callable[[str], None] = lambda name: None,
    ) -> None:
        """``account``: whose keyring it is, for advice; ``refresh_seconds``: how often ``is_due``, 0: never; ``count``
        is called with a counter's name."""
        self._keyring = keyring
        self._http = http
        self._clock = clock
        self._account = account
        self._refresh_seconds = refresh_seconds
        self._count = count
        self._asked: dict[str, float] = {}
        self._lock = threading.Lock()

    def find(self, recipient: Address, offer: StubDomain, *, ask: bool = True) -> Addressee:
        """Return the certificate for a recipient at a domain that offers stub mail; without ``ask`` only a known one.

        One that has to be fetched is imported into the keyring, once; it never replaces one that is there. For one that
        cannot be used any more a new version is asked for. Raises TemporaryError when there is no usable certificate,
        4.7.5 unless the key server does not answer: mail waits until there is one, or comes back.
        """
        addressee = self._known(recipient)
        if addressee is None:
            if not ask:
                raise TemporaryError("4.4.2", f"the key server of {recipient.domain} is slow")
            addressee = self._fetch(recipient, offer)
        elif ask and addressee.certificate.problem(self._now()) and self._may_ask(addressee.address, UNUSABLE_SECONDS):
            self.refresh(addressee.address, offer)
            addressee = self._known(recipient) or addressee
        if problem := addressee.certificate.problem(self._now()):
            raise self._unusable(addressee, problem)
        return addressee

    def is_due(self, addressee: Addressee) -> bool:
        """Whether the key server should be asked again; True only once, then it counts as asked."""
        return self._refresh_seconds > 0 and self._may_ask(addressee.address, self._refresh_seconds)

    def refresh(self, address: Address, offer: StubDomain) -> None:
        """Ask the key server for a key that the keyring has: take in what is new about it, report another one."""
        try:
            found = refresh(self._keyring, self._http, offer, address, self._clock())
        except (StubmailError, OSError) as error:
            event(_log, "not refreshed", address=address, reason=error)
            return
        if found is not None:
            self._report(address, found)

    def _known(self, recipient: Address) -> Addressee | None:
        certificate = self._keyring.find(recipient)
        if certificate is None:
            return None
        return Addressee(recipient if recipient.key in certificate.addresses else recipient.base, certificate)

    def _fetch(self, recipient: Address, offer: StubDomain) -> Addressee:
        failure = TemporaryError("4.7.5", f"{offer.domain} names no key server")
        for address in dict.fromkeys((recipient, recipient.base)):
            for target in in_turn(offer.keyservers):
                try:
                    certificate = look_up(self._http, target, address, self._now())
                except TemporaryError as error:
                    failure = error
                    continue
                self._import(certificate, address)
                if addressee := self._known(recipient):
                    return addressee
                text = f"the keyring's key {certificate.fingerprint} for {address} is disabled there"
                raise TemporaryError("4.7.5", f"{text}; enable it with gpg --edit-key, or write to somebody else")
        if failure.code == "4.7.5":
            advice = f"ask {recipient.base} to publish one there, or import it: {self._command('import')} FILE"
            raise TemporaryError("4.7.5", f"{failure.text}; {advice}") from failure
        raise failure

    def _import(self, certificate: Certificate, address: Address) -> None:
        try:
            added = self._keyring.add(certificate)
        except KeyConflict as error:  # the one that is there was disabled, or is for several addresses
            if self._keyring.changes.note(address, certificate, self._clock()):
                self._report_change(address, error.present, certificate)
            raise TemporaryError("4.7.5", f"{error.text}; {self._how_to_accept(address)}") from error
        except PermanentError as error:  # gpg cannot use it
            raise TemporaryError("4.7.5", error.text) from error
        self._may_ask(address, 0.0)
        if added:
            event(_log, "imported", address=address, fingerprint=certificate.fingerprint)
            self._count("keys imported")

    def _report(self, address: Address, found: Refreshed) -> None:
        if found.state is State.UPDATED:
            event(_log, "key updated", address=address, fingerprint=found.present.fingerprint)
            self._count("keys updated")
        elif found.offered is not None and found.news:
            self._report_change(address, found.present.fingerprint, found.offered)

    def _report_change(self, address: Address, present: str, offered: Certificate) -> None:
        event(
            _log,
            "key changed",
            level=logging.WARNING,
            address=address,
            keyring=present,
            server=offered.fingerprint,
            reason=f"the keyring's key stays in use; {self._how_to_accept(address)}",
        )
        self._count("keys changed")

    def _unusable(self, addressee: Addressee, problem: str) -> TemporaryError:
        address, certificate = addressee.address, addressee.certificate
        text = f"the key {certificate.fingerprint} of {address} {_PROBLEMS.get(problem, problem)}"
        change = self._keyring.changes.of(address)
        if change is None:
            return TemporaryError("4.7.5", f"{text}; its owner has to publish a new one, and you to accept it")
        offered = f"the key server of {address.domain} has another one, {change.certificate.fingerprint}"
        return TemporaryError("4.7.5", f"{text}; {offered}; {self._how_to_accept(address)}")

    def _how_to_accept(self, address: Address) -> str:
        return f"compare fingerprints with its owner, then say: {self._command('accept')} {address}"

    def _command(self, verb: str) -> str:
        return f"stubmail keys {verb}" + (f" --account {self._account}" if self._account else "")

    def _may_ask(self, address: Address, seconds: float) -> bool:
        """Whether an address was not asked for so long; if so it counts as asked now."""
        now = self._clock()
        with self._lock:
            if abs(now - self._asked.get(address.key, -1e18)) < seconds:
                return False
            self._asked.pop(address.key, None)
            self._asked[address.key] = now
            while len(self._asked) > MAX_ASKED:
                del self._asked[next(iter(self._asked))]  # the one asked longest ago
            return True

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
