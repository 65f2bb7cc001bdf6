"""Mail addresses as stub mail compares them: one canonical form, subaddresses on request."""

import re
from dataclasses import dataclass
from functools import lru_cache

MAX_ADDRESS = 254  # octets, RFC 5321 §4.5.3.1.3 less the angle brackets
MAX_LOCAL = 64  # octets, RFC 5321 §4.5.3.1.1
MAX_NAME = 253  # octets of a domain name as text, RFC 1035 §2.3.4

# RFC 5321 §4.1.2 Dot-string, with RFC 6531 §3.3 letters; a quoted local part has no place in a user ID and is refused.
# So is what would break lines or cannot be UTF-8: C1 controls, U+2028, U+2029 and surrogates.
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a0-\u2027\u202a-\ud7ff\ue000-\U0010ffff-]+")
# RFC 5894 §7.2: what IDNA2003, which Python has, makes other letters of or drops, and IDNA2008 does not: sharp s, final
# sigma, and the two zero-width joiners. The same text would mean another domain here than elsewhere.
_AMBIGUOUS = frozenset("\u00df\u1e9e\u03c2\u200c\u200d")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9-]{0,61}[a-z0-9])?")


class AddressError(ValueError):
    """The text is not an address that stub mail can carry; the message says why."""


def parse_domain(text: str) -> str:
    """Return a domain name in the form used everywhere else: lower case, A-labels, no trailing dot.

    Raises AddressError for an address literal, an empty or over-long label or name (RFC 1035 §2.3.4), text that
    IDNA cannot encode, or letters that the versions of IDNA encode differently.
    """
    if len(text) > MAX_NAME + 1:  # before IDNA, whose work grows with the square of the length
        raise AddressError("the domain name is too long")
    name = text.removesuffix(".").lower()
    if not name.isascii():
        if _AMBIGUOUS & set(text):
            raise AddressError(f"{text!r} means different domains to different programs; write it in A-labels (xn--…)")
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise AddressError(f"{text!r} is not a domain name") from error
    if not 0 < len(name) <= MAX_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise AddressError(f"{text!r} is not a domain name")
    return name


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox: ``local`` as written, ``domain`` canonical.

    Two addresses are the same mailbox when their ``key`` is the same: the local part is compared without regard to
    case, as every mail system in use does, though RFC 5321 §2.4 leaves it to the domain.
    """

    local: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse ``local@domain``, without angle brackets or a display name. Raises AddressError."""
        if len(text) > MAX_ADDRESS:
            raise AddressError("the mail address is too long")
        return _parse(text)

    @property
    def key(self) -> str:
        """The canonical text by which addresses are compared, stored and hashed."""
        return f"{self.local.lower()}@{self.domain}"

    @property
    def base(self) -> "Address":
        """The address without its subaddress: ``bob+lists@d`` becomes ``bob@d`` (RFC 5233)."""
        local = self.local.partition("+")[0]
        return Address(local, self.domain) if local else self

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


@lru_cache(maxsize=4096)  # the same few people write to each other again and again
def _parse(text: str) -> Address:
    local, at, domain = text.rpartition("@")
    if not at or not all(map(_ATOM.fullmatch, local.split("."))):
        raise AddressError(f"{text!r} is not a mail address")
    address = Address(local, parse_domain(domain))
    if len(local.encode()) > MAX_LOCAL or len(str(address).encode()) > MAX_ADDRESS:
        raise AddressError("the mail address is too long")
    return address
