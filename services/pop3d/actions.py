"""What a session asks of the outside world, and what it is told of its maildrop; no I/O here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol


class Listing(Protocol):
    """What a session knows of its maildrop; message 1 is at index 0 and numbering never moves."""

    @property
    def octets(self) -> Sequence[int]:
        """How many octets RETR transmits of each message, before byte-stuffing."""

    @property
    def total(self) -> int:
        """Their sum."""

    def uid(self, index: int) -> str:
        """Return a message's unique-id: 1 to 70 characters from 0x21 to 0x7E (RFC 1939 §7)."""


@dataclass(frozen=True, slots=True)
class Login:
    """Find out whether these credentials open a maildrop, then call ``accept`` or ``refuse``.

    ``identity`` is whom the client would act as (RFC 4616 §2), empty for whom it logs in as.
    """

    name: bytes
    password: bytes = field(repr=False)
    mechanism: str = "USER"
    identity: bytes = b""


@dataclass(frozen=True, slots=True)
class DigestLogin:
    """As Login, with a digest of the challenge and the password: APOP (RFC 1939 §7) or CRAM-MD5 (RFC 2195)."""

    name: bytes
    challenge: bytes
    digest: bytes
    mechanism: str
    identity: ClassVar[bytes] = b""  # neither has any


@dataclass(frozen=True, slots=True)
class ScramLogin:
    """As Login, after SCRAM: ``proven`` says whether the client knew the password."""

    name: bytes
    proven: bool
    mechanism: str
    identity: bytes = b""


Credentials = Login | DigestLogin | ScramLogin


@dataclass(frozen=True, slots=True)
class FindKeys:
    """Find what is kept for SCRAM under this name, which may be nobody's, then call ``keys_found`` or ``refuse``."""

    name: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """Begin TLS on this connection, behind the replies given so far, then call ``tls_started``."""


class Retrieve(NamedTuple):
    """Send ``head``, then message ``number`` byte-stuffed and ended; ``lines`` of its body only when not None."""

    number: int
    lines: int | None
    head: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """Remove messages, unlock the maildrop, then call ``committed``.

    ``numbers`` were marked. ``retrieved`` may not stay, if they have really been sent; with ``expire`` above 0, nor may
    those that came more than so many days ago (EXPIRE, RFC 2449 §6.7).
    """

    numbers: list[int]
    retrieved: list[int] = field(default_factory=list)
    expire: int = 0


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection behind the replies given so far; ``reason`` is for the log."""

    reason: str


Action = Credentials | FindKeys | StartTls | Retrieve | Commit | Close
Outcome = bytes | Action | Iterator[bytes]  # of a command: a reply, something to do, or a reply in pieces


@dataclass(slots=True)
class Statistics:
    """What a session found and did, for its line in the log; octets as announced, before byte-stuffing."""

    mechanism: str = ""
    messages: int = 0
    octets: int = 0
    retrieved: int = 0
    retrieved_octets: int = 0
    tops: int = 0
    deleted: int = 0
