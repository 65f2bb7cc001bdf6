"""What front and session process say to each other: one JSON object in a datagram, octets as Latin-1; no I/O here."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self, get_origin

MAX_CALL = 131_072  # octets of any datagram
MAX_OCTETS = 16_384  # of commands that go along with a client's socket

KNOCK = b"?"  # to the keeper, with one end of a pair for the calls: it must not know more, let alone a password
MAX_PEMS = 65_536  # octets of a certificate with its chain and key

_JSON = json.JSONDecoder()


class CallError(Exception):
    """What came is no such call."""


class _Call:
    def to_wire(self) -> bytes:
        """Return the datagram."""
        return json.dumps(asdict(self)).encode("ascii")  # type: ignore[call-overload]

    @classmethod
    def from_wire(cls, data: bytes) -> Self:
        """Parse a datagram. Raises CallError."""
        fields: dict[str, Any] = cls.__annotations__
        try:
            values = _JSON.decode(data.decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise CallError(f"no JSON: {error}") from error
        if not isinstance(values, dict) or set(values) != set(fields):
            raise CallError(f"no {cls.__name__}")
        for key, kind in fields.items():
            if type(values[key]) is not (get_origin(kind) or kind):
                raise CallError(f"{key} must be {kind}")
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Login(_Call):
    """To the session process: check this password. ``name`` and ``password`` are octets as Latin-1."""

    session: str
    address: str
    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer(_Call):
    """From the session process: ``user`` is logged in and the maildrop open; or else why not.

    ``code`` and ``text`` are for the client; AUTH: the password is wrong, or what takes as long to find out.
    """

    user: str = ""
    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class HandOver(_Call):
    """To the session process, with the client's socket or one end of a pair: go on.

    ``octets`` are commands that came behind the login, as Latin-1.
    """

    mechanism: str
    encrypted: bool
    octets: str


@dataclass(frozen=True, slots=True)
class Done(_Call):
    """From the session process, as its last word: what it counted, by the counters' names."""

    counts: dict[str, int]
