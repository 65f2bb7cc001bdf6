"""HKP as GnuPG speaks it: what is looked for, and how a list of certificates is written. Sans-IO.

draft-gallagher-openpgp-hkp; dirmngr is the client that counts.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import quote

from stubmail.address import Address, AddressError
from stubmail.openpgp import Certificate
from stubmail.openpgp.packets import read_packets

MAX_SEARCH = 300  # characters
MAX_LISTED = 50  # certificates in one list
MAX_USER_IDS = 20  # of one certificate in a list

_HEX = re.compile(r"0[xX]([0-9A-Fa-f]+)")
_FINGERPRINTS = (40, 64)  # hex digits of version 4 and version 6, RFC 9580 §5.5.4
_KEY_ID = 16

# Curves by the object identifier in the key packet, RFC 9580 §9.2, and their size as gpg shows it.
_CURVE_BITS = {
    "2b06010401da470f01": 255,  # Ed25519Legacy
    "2a8648ce3d030107": 256,  # NIST P-256
    "2b81040022": 384,
    "2b81040023": 521,
    "2b2403030208010107": 256,  # brainpool
    "2b240303020801010b": 384,
    "2b240303020801010d": 512,
}
_FIXED_BITS = {25: 255, 26: 448, 27: 255, 28: 448}  # X25519, X448, Ed25519, Ed448


class HkpError(ValueError):
    """The request is not one that a key server can answer; ``status`` is the HTTP status to refuse it with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Lookup:
    """A question: what to do with the certificates found, and by what ``kind`` of key ``value`` to find them.

    ``value`` is an upper-case hex fingerprint or 64-bit key id, an Address.key, or lower-case text that a user ID
    contains.
    """

    op: Literal["get", "index"]
    kind: Literal["fingerprint", "key-id", "address", "text"]
    value: str


def parse_lookup(arguments: Mapping[str, str]) -> Lookup:
    """Parse the arguments of ``/pks/lookup``. Raises HkpError.

    32-bit key ids are refused: anybody can make a key that has the same.
    """
    op = arguments.get("op", "")
    if op not in ("get", "index", "vindex"):
        raise HkpError(501, "op must be get, index or vindex")
    search = arguments.get("search", "").strip()
    if not 0 < len(search) <= MAX_SEARCH:
        raise HkpError(400, f"search must have 1 to {MAX_SEARCH} characters")
    what: Literal["get", "index"] = "get" if op == "get" else "index"
    if match := _HEX.fullmatch(search):
        digits = match[1].upper()
        if len(digits) in _FINGERPRINTS:
            return Lookup(what, "fingerprint", digits)
        if len(digits) == _KEY_ID:
            return Lookup(what, "key-id", digits)
        raise HkpError(400, "give a whole fingerprint or a 64-bit key id; shorter ones can be forged")
    if "@" in search:
        try:
            text = search[1:-1] if search.startswith("<") and search.endswith(">") else search
            return Lookup(what, "address", Address.parse(text).key)
        except AddressError:
            pass  # part of a user ID, perhaps
    if what == "get" or arguments.get("exact") == "on":
        raise HkpError(404, "give a mail address or a fingerprint")
    return Lookup(what, "text", search.lower())


def parse_keytext(form: Mapping[str, str]) -> bytes:
    """Return the certificate in the form that ``/pks/add`` gets. Raises HkpError."""
    keytext = form.get("keytext", "").strip()
    if not keytext:
        raise HkpError(400, "keytext is missing")
    if not keytext.isascii():
        raise HkpError(400, "keytext is not ASCII-armoured")
    return keytext.encode() + b"\n"


def format_index(certificates: Iterable[Certificate], now: datetime) -> bytes:
    """Return the machine-readable list (draft §5.2), MAX_LISTED certificates at most."""
    blocks = [_format_certificate(certificate, now) for certificate in list(certificates)[:MAX_LISTED]]
    return "".join([f"info:1:{len(blocks)}\n", *blocks]).encode("ascii")


def _format_certificate(certificate: Certificate, now: datetime) -> str:
    algorithm, bits = key_size(certificate.data)
    created = int(certificate.created.timestamp())
    expires = int(certificate.expires.timestamp()) if certificate.expires else ""
    problem = certificate.signing_problem(now)
    flags = {"revoked": "r", "expired": "e"}.get(problem or "", "")
    lines = [f"pub:{certificate.fingerprint}:{algorithm}:{bits or ''}:{created}:{expires}:{flags}\n"]
    # Everything but letters, digits and "_.-~" is escaped: neither ":" nor a line end can stand in a user ID's field.
    lines += [f"uid:{quote(user_id, safe=' @<>')}:::\n" for user_id in certificate.user_ids[:MAX_USER_IDS]]
    return "".join(lines)


def key_size(certificate: bytes) -> tuple[int, int]:
    """Return the primary key's algorithm number and its size in bits, 0 when that is not known (RFC 9580 §5.5.2)."""
    body = next(read_packets(certificate, 1)).body
    algorithm = body[5]
    if algorithm in _FIXED_BITS:
        return algorithm, _FIXED_BITS[algorithm]
    material = body[10:] if body[0] == 6 else body[6:]
    if algorithm in (1, 2, 3, 16, 17):  # RSA, Elgamal, DSA: the first number is as long as the key
        return algorithm, int.from_bytes(material[:2], "big")
    if algorithm in (18, 19, 22):  # ECDH, ECDSA, EdDSA: a curve's object identifier
        return algorithm, _CURVE_BITS.get(material[1 : 1 + material[0]].hex(), 0)
    return algorithm, 0
