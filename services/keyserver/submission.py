"""Who may add what: an owner's changes to a certificate on file from anybody, a first certificate from friends only.

Nothing is believed because it was sent: gpg verifies every signature first, so that nobody can flood a certificate with
packets that its owner did not make.
"""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pysequoia

from services.keyserver.collection import Collection, restrict
from services.keyserver.directory import Directory
from stubmail.address import Address
from stubmail.errors import PermanentError, TemporaryError
from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.openpgp.certificate import address_of
from stubmail.openpgp.gnupg import GnuPG
from stubmail.openpgp.packets import USER_ID, read_packets

Outcome = Literal["added", "updated", "unchanged"]

WAIT_SECONDS = 10.0  # for the submissions before this one; they are taken one by one


class NotAllowedError(PermanentError):
    """This client may not add this certificate."""

    def __init__(self, text: str) -> None:
        super().__init__("5.7.1", text)


class Submissions:
    """Takes certificates into a directory, one at a time."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._lock = threading.Lock()

    def add(self, data: bytes, *, trusted: bool) -> tuple[Certificate, Outcome]:
        """Add one armoured or binary certificate, or merge it with the one on file; ``trusted``: may be a first one.

        Returns what is on file afterwards. Raises OpenPGPError for what is no good certificate, NotAllowedError,
        TemporaryError when too many wait, OSError when the directory cannot be written.
        """
        offered = Certificate.parse(data)
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise TemporaryError("4.3.2", "too many certificates are being added; try again later")
        try:
            return self._add(offered, trusted)
        finally:
            self._lock.release()

    def _add(self, offered: Certificate, trusted: bool) -> tuple[Certificate, Outcome]:
        collection = self._directory.current()
        present = collection.by_fingerprint(offered.fingerprint)
        if present is None and not trusted:
            raise NotAllowedError("a new certificate can be added only by the domain's own networks")
        known = _addresses_on(present) if present else set()

        def allowed(address: Address) -> bool:
            """On file already; or, from a friend, one of ours that nobody else has: an owner cannot take another's."""
            return address.key in known or (
                trusted and address.domain == self._directory.domain and _free(collection, address, offered)
            )

        try:
            verified = restrict(verify(merge(present, offered) if present else offered), allowed)
        except OpenPGPError as error:
            if present is None and not any(map(allowed, _user_addresses(offered))):
                text = f"no user ID of it is of {self._directory.domain} with an address that has no certificate yet"
                raise NotAllowedError(text) from error
            raise
        result = merge(present, verified) if present else verified
        if present and result.data == present.data:
            return present, "unchanged"
        self._directory.store(result)
        return result, "updated" if present else "added"


def merge(old: Certificate, new: Certificate) -> Certificate:
    """Return the union of two versions of one certificate. Raises OpenPGPError when it is too large."""
    try:
        merged = pysequoia.Cert.from_bytes(old.data).merge(pysequoia.Cert.from_bytes(new.data))
    except RuntimeError as error:
        raise OpenPGPError("malformed", "the certificates cannot be merged") from error
    return Certificate.parse(bytes(merged))


def verify(certificate: Certificate) -> Certificate:
    """Return the certificate with only what its primary key has validly signed, each component's latest signatures.

    Raises OpenPGPError when gpg finds nothing that it can use.
    """
    with TemporaryDirectory(prefix="stubmail-") as home:
        gpg = GnuPG(Path(home))
        options = ("--no-autostart", "--import-options", "import-minimal")
        gpg.run(*options, "--import", data=certificate.data)
        exported = gpg.run("--no-autostart", "--export", certificate.fingerprint).output
    if not exported:
        raise OpenPGPError("unsupported", "gpg cannot use the certificate")
    return Certificate.parse(exported)


def _free(collection: Collection, address: Address, offered: Certificate) -> bool:
    return all(holder.fingerprint == offered.fingerprint for holder in collection.holders(address.key))


def _addresses_on(certificate: Certificate) -> set[str]:
    """The addresses of all its user IDs, revoked ones too."""
    return {address.key for address in _user_addresses(certificate)}


def _user_addresses(certificate: Certificate) -> list[Address]:
    packets = read_packets(certificate.data, len(certificate.data))
    user_ids = (packet.body.decode("utf-8", "replace") for packet in packets if packet.tag == USER_ID)
    return [address for address in map(address_of, user_ids) if address]
