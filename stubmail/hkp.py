"""HKP lookups as GnuPG makes them (protocol.md §8): the question for an address, and which answer to accept. No I/O."""

from collections.abc import Callable
from datetime import datetime
from urllib.parse import quote

from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.openpgp import MAX_CERTIFICATE, Certificate, OpenPGPError
from stubmail.openpgp.certificate import MAX_ARMORED, MAX_PACKETS, binary, split_certificates
from stubmail.openpgp.packets import read_packets

MAX_ANSWER = MAX_ARMORED  # octets; more need not be read

__all__ = ["MAX_ANSWER", "MAX_CERTIFICATE", "choose", "fetch_certificate", "lookup_path"]


def lookup_path(address: Address) -> str:
    """Return the path and query that ask a key server for an address's certificate."""
    return f"/pks/lookup?op=get&options=mr&exact=on&search={quote(str(address), safe='@')}"


def choose(body: bytes, address: Address, now: datetime) -> Certificate:
    """Return the usable certificate for exactly this address in a key server's answer, the newest of several.

    Raises TemporaryError 4.7.5 when there is none, since the domain may publish one later: nothing found, not an
    OpenPGP certificate, larger than MAX_ANSWER, another address's, revoked, expired, or unable to encrypt.
    """
    if not body.strip():
        raise TemporaryError("4.7.5", f"the key server has no key for {address}")
    usable: list[Certificate] = []
    problems: list[str] = []
    try:
        groups = split_certificates(read_packets(binary(body), MAX_PACKETS))
    except OpenPGPError as error:
        raise TemporaryError("4.7.5", f"the key server's answer for {address} is unusable: {error.text}") from error
    for group in groups:
        try:
            certificate = Certificate.from_packets(group)
        except OpenPGPError as error:
            problems.append(error.text)
            continue
        if problem := _problem(certificate, address, now):
            problems.append(f"key {certificate.fingerprint} {problem}")
        else:
            usable.append(certificate)
    if not usable:
        raise TemporaryError("4.7.5", f"the key server has no usable key for {address}: {'; '.join(problems[:3])}")
    return max(usable, key=lambda certificate: certificate.created)


def fetch_certificate(get: Callable[[str], bytes], address: Address, now: datetime) -> Certificate:
    """Ask with ``get`` (path and query in, body out, b"" when nothing is found) and choose. Raises TemporaryError."""
    return choose(get(lookup_path(address)), address, now)


def _problem(certificate: Certificate, address: Address, now: datetime) -> str | None:
    if address.key not in certificate.addresses:
        return "is for another address"
    problem = certificate.problem(now)
    if problem == "cannot-encrypt":
        return "cannot be encrypted to"
    return problem and f"is {problem}"
