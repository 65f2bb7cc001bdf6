"""JSON from strangers, taken apart member by member with the type and the bounds that each must have. Sans-IO.

Whoever parses says with ``error`` what to raise: a function from a sentence to an exception.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NoReturn

from stubmail.address import Address, AddressError

ID = re.compile(r"[0-9a-f]{32}")  # 16 octets: posts, sessions, nonces, cookies
SHA256 = re.compile(r"[0-9a-f]{64}")  # 32 octets: digests and secrets
FINGERPRINT = re.compile(r"[0-9A-F]{40}([0-9A-F]{24})?")
MAX_INTEGER = 2**63 - 1  # what every database can hold

Error = Callable[[str], Exception]


def parse_json(data: bytes, error: Error) -> Any:
    """Parse RFC 8259 JSON in UTF-8; a name that stands twice in an object is an error (protocol.md §1)."""
    try:
        return _decoder(error).decode(data.decode())
    except (ValueError, RecursionError) as cause:  # ValueError: not UTF-8, not JSON, or a number too long to convert
        raise error("not JSON") from cause


@lru_cache(maxsize=16)
def _decoder(error: Error) -> json.JSONDecoder:
    """Return what decodes strictly; for small texts, to make one takes as long as to use it."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise error("a name stands twice in a JSON object")
        return members

    def no_constant(name: str) -> NoReturn:
        raise error(f"{name} is not JSON")

    return json.JSONDecoder(object_pairs_hook=unique, parse_constant=no_constant)


class Shape:
    """A JSON object's members."""

    def __init__(self, value: Any, error: Error) -> None:
        if not isinstance(value, Mapping):
            raise error("a JSON object is wanted")
        self.members: Mapping[str, Any] = value
        self._error = error

    def text(self, name: str, longest: int) -> str:
        """A text of at most ``longest`` characters."""
        value = self.members.get(name)
        if not isinstance(value, str) or len(value) > longest:
            raise self._error(f"{name} must be a text of at most {longest} characters")
        return value

    def match(self, name: str, pattern: re.Pattern[str]) -> str:
        """A text that the pattern matches from end to end."""
        value = self.text(name, 255)
        if not pattern.fullmatch(value):
            raise self._error(f"{name} is malformed")
        return value

    def octets(self, name: str, pattern: re.Pattern[str] = ID) -> bytes:
        """The octets that a hex text stands for."""
        return bytes.fromhex(self.match(name, pattern))

    def integer(self, name: str) -> int:
        """A whole number from 0 to 2⁶³-1."""
        value = self.members.get(name)
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise self._error(f"{name} must be a whole number")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.members.get(name)
        if not isinstance(value, bool):
            raise self._error(f"{name} must be true or false")
        return value

    def array(self, name: str, longest: int) -> list[Any]:
        """An array of at most ``longest`` items, whatever they are."""
        value = self.members.get(name)
        if not isinstance(value, list) or len(value) > longest:
            raise self._error(f"{name} must be an array of at most {longest}")
        return value

    def objects(self, name: str, longest: int) -> list["Shape"]:
        """An array of at most ``longest`` objects."""
        return [Shape(item, self._error) for item in self.array(name, longest)]

    def texts(self, name: str, longest: int, pattern: re.Pattern[str]) -> list[str]:
        """An array of at most ``longest`` texts that the pattern matches from end to end."""
        items = self.array(name, longest)
        if not all(isinstance(item, str) and pattern.fullmatch(item) for item in items):
            raise self._error(f"an item of {name} is malformed")
        return items

    def address(self, name: str) -> Address:
        """A mail address."""
        try:
            return Address.parse(self.text(name, 254))
        except AddressError:
            raise self._error(f"{name} must be a mail address") from None
