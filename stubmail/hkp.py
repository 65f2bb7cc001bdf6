"""HKP lookups as GnuPG makes them (protocol.md §8): the question for an address, and which answer to accept. No I/O."""

from collections.abc import Iterator
from datetime import datetime
from urllib.parse import quote

from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.openpgp import MAX_CERTIFICATE, Certificate, OpenPGPError
from stubmail.openpgp.certificate import MAX_ARMORED, MAX_PACKETS, binary, split_certificates
from stubmail.openpgp.packets import read_packets

MAX_ANSWER = MAX_ARMORED  # octets; more need not be read

__all__ = ["MAX_ANSWER", "MAX_CERTIFICATE", "choose", "lookup_path", "version_of"]


def lookup_path(address: Address) -> str:
    """Return the path and query that ask a key server for an address's certificate."""
    return f"/pks/lookup?op=get&options=mr&exact=on&search={quote(str(address), safe='@')}"


def choose(body: bytes, address: Address, now: datetime) -> Certificate:
    """Return the usable certificate for exactly this address in a key server's answer, the newest of several.

    It comes without its other user IDs: who keeps a certificate because he writes to one address must not find it
    for another one later. Raises TemporaryError 4.7.5 when there is none, since the domain may publish one later:
    nothing found, not an OpenPGP certificate, larger than MAX_ANSWER, another address's, revoked, expired, or unable to
    encrypt.
    """
    if not body.strip():
        raise TemporaryError("4.7.5", f"the key server has no key for {address}")
    usable: list[Certificate] = []
    problems: list[str] = []
    for certificate in _read(body, address, problems):
        try:
            found = _for(certificate, address)
        except OpenPGPError as error:
            problems.append(error.text)
            continue
        if problem := found.problem(now) if found else "for another address":
            word = "cannot be encrypted to" if problem == "cannot-encrypt" else f"is {problem}"
            problems.append(f"key {certificate.fingerprint} {word}")
        elif found:
            usable.append(found)
    if not usable:
        raise TemporaryError("4.7.5", f"the key server has no usable key for {address}: {'; '.join(problems[:3])}")
    return max(usable, key=lambda certificate: certificate.created)


def version_of(present: Certificate, body: bytes, address: Address) -> Certificate | None:
    """Return the version of a certificate that we have in a key server's answer; None when it is not there.

    It may be revoked or expired by now; that is what one wants to know. Only its user IDs for ``address`` come along.
    Raises TemporaryError 4.7.5 for an answer that is none.
    """
    for certificate in _read(body, address, []) if body.strip() else ():
        if certificate.fingerprint == present.fingerprint:
            try:
                return certificate.only_for(address)
            except OpenPGPError as error:
                text = f"the key server's version of key {present.fingerprint} is unusable: {error.text}"
                raise TemporaryError("4.7.5", text) from error
    return None


def _read(body: bytes, address: Address, problems: list[str]) -> Iterator[Certificate]:
    """Yield the certificates in an answer; what cannot be read is added to ``problems``. Raises TemporaryError."""
    try:
        groups = split_certificates(read_packets(binary(body), MAX_PACKETS))
    except OpenPGPError as error:
        raise TemporaryError("4.7.5", f"the key server's answer for {address} is unusable: {error.text}") from error
    for group in groups:
        try:
            yield Certificate.from_packets(group)
        except OpenPGPError as error:
            problems.append(error.text)


def _for(certificate: Certificate, address: Address) -> Certificate | None:
    return certificate.only_for(address) if address.key in certificate.addresses else None
