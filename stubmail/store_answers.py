"""What a store answers, parsed from JSON that nobody vouches for (protocol.md §4.4, §5). Sans-IO."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stubmail import request
from stubmail.address import Address, AddressError
from stubmail.errors import PermanentError, TemporaryError

MAX_OTHERS = 100
T = TypeVar("T")


class StoreRefused(PermanentError):
    """The store refused a request for good; ``reason`` is its code (protocol.md §4.4)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__("5.7.1", f"the store refused ({reason}): {message}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Session:
    """What an ``open`` bought: ids and keys are octets, ``expires`` is Unix time, ``max_post`` octets (§5.1)."""

    id: str
    secret: bytes
    expires: int
    cookie: bytes
    cookie_key: bytes
    max_post: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one post of a store or withdraw request."""

    id: bytes
    state: str
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A post that waits for us: ``sender`` is the fingerprint, ``size`` octets, ``time`` Unix time."""

    id: bytes
    serial: int
    sender: str
    address: Address
    size: int
    time: int


@dataclass(frozen=True, slots=True)
class Other:
    """A sender whom we did not ask for, and how many of his posts wait for us."""

    sender: str
    address: Address
    count: int


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of what waits (§5.3)."""

    posts: tuple[Listed, ...]
    more: bool
    serial: int
    others: tuple[Other, ...]


def refusal(status: int, data: bytes) -> StoreRefused | TemporaryError:
    """Return the error that a JSON answer with a status other than 200 stands for (protocol.md §4.4)."""
    members = json_object(data)
    code, message = str(members.get("error"))[:40], str(members.get("message"))[:200]
    if code in request.RETRYABLE or code not in request.STATUS or status >= 500:
        return TemporaryError("4.3.0", f"the store refused for now ({code}): {message}")
    return StoreRefused(code, message)


def json_object(data: bytes) -> dict[str, Any]:
    """Parse an answer. Raises TemporaryError when it is not a JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TemporaryError("4.3.0", "the store's answer is not JSON") from error
    if not isinstance(value, dict):
        raise TemporaryError("4.3.0", "the store's answer is not a JSON object")
    return value


def _understood(parse: Callable[[dict[str, Any]], T], data: dict[str, Any]) -> T:
    """Parse an answer's members; whatever is missing or of another type is the store's fault."""
    try:
        return parse(data)
    except (KeyError, TypeError, ValueError, AttributeError, AddressError) as error:
        raise TemporaryError("4.3.0", "the store's answer lacks what the protocol asks for") from error


def parse_session(plain: bytes, host: str, nonce: str) -> Session:
    """Parse the decrypted answer to an ``open`` that asked ``host`` with ``nonce``. Raises TemporaryError."""
    data = json_object(plain)
    if data.get("host") != host or data.get("nonce") != nonce:
        raise TemporaryError("4.7.0", "the store's answer belongs to another request")
    return _understood(
        lambda d: Session(
            id=str(d["session"]),
            secret=_octets(d["secret"], 32),
            expires=int(d["expires"]),
            cookie=_octets(d["cookie"], 16),
            cookie_key=_octets(d["cookie_key"], 32),
            max_post=int(d["max_post"]),
        ),
        data,
    )


def _octets(text: str, size: int) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != size:
        raise ValueError(f"{size} octets wanted")
    return data


def parse_listing(data: dict[str, Any]) -> Listing:
    """Parse the answer to a ``list``. Raises TemporaryError."""
    return _understood(_listing, data)


def _listing(data: dict[str, Any]) -> Listing:
    return Listing(
        posts=tuple(
            Listed(
                id=_octets(post["id"], 16),
                serial=int(post["serial"]),
                sender=str(post["sender"]),
                address=Address.parse(post["address"]),
                size=int(post["size"]),
                time=int(post["time"]),
            )
            for post in data["posts"][: request.MAX_POSTS]
        ),
        more=data["more"] is True,
        serial=int(data["serial"]),
        others=tuple(
            Other(str(other["sender"]), Address.parse(other["address"]), int(other["count"]))
            for other in data["others"][:MAX_OTHERS]
        ),
    )


def parse_results(data: dict[str, Any], ids: Sequence[bytes]) -> list[Result]:
    """Parse the results for these post ids, one each, in their order. Raises TemporaryError."""
    results = _understood(
        lambda d: [
            Result(_octets(r["id"], 16), str(r["state"]), str(r.get("error", "")), str(r.get("message", ""))[:200])
            for r in d["results"]
        ],
        data,
    )
    if [result.id for result in results] != list(ids):
        raise TemporaryError("4.3.0", "the store's answer is about other posts")
    return results
