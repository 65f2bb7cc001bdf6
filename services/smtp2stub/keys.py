"""Recipients' certificates: from the keyring, else from the key server of the recipient's domain (protocol.md §8)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from stubmail.address import Address
from stubmail.discovery import StubDomain
from stubmail.errors import PermanentError, TemporaryError
from stubmail.hkp_client import look_up
from stubmail.http_client import HttpClient
from stubmail.keyring import Keyring
from stubmail.log import event
from stubmail.openpgp import Certificate

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

    def __init__(self, keyring: Keyring, http: HttpClient, clock: Callable[[], float]) -> None:
        self._keyring = keyring
        self._http = http
        self._clock = clock

    def find(self, recipient: Address, offer: StubDomain) -> Addressee:
        """Return the certificate for a recipient at a domain that offers stub mail.

        One that has to be fetched is imported into the keyring, once; it never replaces one that is there. Raises
        TemporaryError 4.7.5 when there is no usable certificate: mail waits until there is one, or comes back.
        """
        addressee = self._known(recipient) or self._fetch(recipient, offer)
        if problem := addressee.certificate.problem(self._now()):
            what = _PROBLEMS.get(problem, problem)
            advice = "its owner has to publish a new one, and you to accept it"
            raise TemporaryError("4.7.5", f"the key of {addressee.address} {what}; {advice}")
        return addressee

    def _known(self, recipient: Address) -> Addressee | None:
        certificate = self._keyring.find(recipient)
        if certificate is None:
            return None
        return Addressee(recipient if recipient.key in certificate.addresses else recipient.base, certificate)

    def _fetch(self, recipient: Address, offer: StubDomain) -> Addressee:
        failure = TemporaryError("4.7.5", f"{offer.domain} names no key server")
        for address in dict.fromkeys((recipient, recipient.base)):
            for target in offer.keyservers:
                try:
                    certificate = look_up(self._http, target, address, self._now())
                except TemporaryError as error:
                    failure = error
                    continue
                self._import(certificate, address)
                if addressee := self._known(recipient):
                    return addressee
        raise failure

    def _import(self, certificate: Certificate, address: Address) -> None:
        try:
            added = self._keyring.add(certificate)
        except PermanentError as error:  # another key is there, or gpg cannot use this one: for a person to settle
            raise TemporaryError("4.7.5", error.text) from error
        if added:
            event(_log, "imported", address=address, fingerprint=certificate.fingerprint)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
