"""What is in a GnuPG home at one time: certificates by address, fingerprint and key ID, read with gpg in one go."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from stubmail import log
from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.openpgp.certificate import split_certificates
from stubmail.openpgp.gnupg import GnuPG
from stubmail.openpgp.packets import read_packets

TRIES = 3  # to list and export the same keys: another program may be changing them meanwhile
MAX_EXPORT_PACKETS = 4_000_000  # of a whole keyring

# Whatever gpg changes when keys, their trust or the secret keys change; public-keys.d is keyboxd's.
_WATCHED = (
    *("pubring.kbx", "pubring.gpg", "public-keys.d/pubring.db", "public-keys.d/pubring.db-wal"),
    *("trustdb.gpg", "private-keys-v1.d"),
)

logger = logging.getLogger("keyring")

Stamp = tuple[tuple[int, int, int] | None, ...]


class Contents:
    """What was in the keyring at one time, disabled certificates included only under ``all``."""

    def __init__(self, stamp: Stamp, everything: list[Certificate], own: set[str], disabled: set[str]) -> None:
        self.stamp = stamp
        self.all = {certificate.fingerprint: certificate for certificate in everything}
        self.own = own
        self.by_address: dict[str, list[Certificate]] = {}
        self.by_key: dict[str, list[Certificate]] = {}  # by the fingerprints and key IDs of primary keys and subkeys
        for certificate in self.all.values():
            if certificate.fingerprint not in disabled:
                for address in sorted(certificate.addresses):
                    self.by_address.setdefault(address, []).append(certificate)
                for name in dict.fromkeys(_names(certificate)):
                    self.by_key.setdefault(name, []).append(certificate)

    def best(self, address: Address, own: bool = False) -> Certificate | None:
        """The certificate for an address: exact before its base address, usable before not, then the newest."""
        now = datetime.now(UTC)
        for key in dict.fromkeys([address.key, address.base.key]):
            found = [found for found in self.by_address.get(key, []) if not own or found.fingerprint in self.own]
            if found:
                return max(found, key=lambda certificate: (certificate.problem(now) is None, certificate.created))
        return None


def stamp_of(home: Path) -> Stamp:
    """Return what changes whenever anybody changes the keys in a GnuPG home."""
    return tuple(_stamp(home / name) for name in _WATCHED)


def read_contents(gnupg: GnuPG, stamp: Stamp) -> Contents:
    """Read all keys of a GnuPG home. Raises TemporaryError when gpg cannot."""
    for _ in range(TRIES):
        listed = _list(gnupg, "--list-keys", "pub")
        own = _list(gnupg, "--list-secret-keys", "sec")
        exported = gnupg.run("--export-options", "no-export-attributes", "--export").output if listed else b""
        groups = split_certificates(read_packets(exported, MAX_EXPORT_PACKETS))
        if len(groups) >= len(listed):
            break
    else:
        raise TemporaryError("4.3.0", f"gpg cannot export the keys in {gnupg.home}")
    certificates = []
    for group in groups:
        try:
            certificates.append(Certificate.from_packets(group))
        except OpenPGPError as error:
            log.event(logger, "passed over", level=logging.WARNING, reason=error.text)
    disabled = {name for name, capabilities in listed.items() if "D" in capabilities}
    return Contents(stamp, certificates, set(own), disabled)


def _list(gnupg: GnuPG, command: str, record: str) -> dict[str, str]:
    """Return, by fingerprint, the capabilities of every key that ``command`` lists; "D" is for disabled."""
    result = gnupg.run("--with-colons", "--fixed-list-mode", command)
    if result.code:
        raise TemporaryError("4.3.0", f"gpg cannot read the keyring in {gnupg.home}")
    found = {}
    capabilities = None
    for line in result.output.split(b"\n"):  # user IDs are in there, their line feeds and colons escaped
        fields = line.decode("utf-8", "replace").split(":")
        if fields[0] == record and len(fields) > 11:
            capabilities = fields[11]
        elif fields[0] == "fpr" and capabilities is not None:
            found[fields[9]] = capabilities
            capabilities = None
    return found


def _names(certificate: Certificate) -> Iterator[str]:
    for fingerprint in certificate.key_fingerprints:
        yield fingerprint
        yield fingerprint[-16:] if len(fingerprint) == 40 else fingerprint[:16]  # RFC 9580 §5.5.4


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
