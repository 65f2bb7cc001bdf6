"""What a store answers, parsed from JSON that nobody vouches for (protocol.md §4.4, §5). Sans-IO."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stubmail import request
from stubmail.address import Address
from stubmail.errors import PermanentError, TemporaryError, one_line
from stubmail.shape import FINGERPRINT, ID, SHA256, Shape, parse_json

MAX_OTHERS = 100
_WORD = re.compile(r"[a-z-]{1,40}")  # a state or a code
_MAX_MESSAGE = 200  # characters of a store's sentence that are kept


class StoreRefused(PermanentError):
    """The store refused a request for good; ``reason`` is its code (protocol.md §4.4)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__("5.7.1", f"the store refused ({reason}): {message}")
        self.reason = reason


class TokenWanted(TemporaryError):
    """The store answers only those who asked over UDP before (protocol.md §6.6)."""

    def __init__(self) -> None:
        super().__init__("4.7.0", "the store wants a token, and does not take the one it gave")


@dataclass(frozen=True, slots=True)
class Session:
    """What an ``open`` bought: the cookie and the keys are octets, ``expires`` is Unix time (§5.1).

    ``max_post``: octets of the largest post that the store takes from us; 0 when it takes none.
    """

    id: str
    secret: bytes = field(repr=False)
    expires: int
    cookie: bytes
    cookie_key: bytes = field(repr=False)
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


@dataclass(frozen=True, slots=True)
class Sent:
    """A post of our own: ``to`` is the recipient's fingerprint; times are Unix time, ``size`` is octets (§5.6)."""

    id: bytes
    serial: int
    to: str
    address: Address
    size: int
    state: str
    stored: int
    changed: int
    expires: int


@dataclass(frozen=True, slots=True)
class Outbox:
    """One page of our own posts."""

    posts: tuple[Sent, ...]
    more: bool


def refusal(status: int, data: bytes) -> StoreRefused | TemporaryError:
    """Return the error that a JSON answer with a status other than 200 stands for (protocol.md §4.4)."""
    members = json_object(data)
    code, message = str(members.get("error"))[:40], _sentence(members.get("message"))
    if code == "token":
        return TokenWanted()
    if code in request.RETRYABLE or code not in request.STATUS or status >= 500:
        return TemporaryError("4.3.0", f"the store refused for now ({code}): {message}")
    return StoreRefused(code, message)


def json_object(data: bytes) -> dict[str, Any]:
    """Parse an answer. Raises TemporaryError when it is not a JSON object."""
    value = parse_json(data, _malformed)
    if not isinstance(value, dict):
        raise _malformed("not a JSON object")
    return value


def parse_session(plain: bytes, host: str, nonce: str) -> Session:
    """Parse the decrypted answer to an ``open`` that asked ``host`` with ``nonce``. Raises TemporaryError."""
    shape = Shape(json_object(plain), _malformed)
    if shape.integer("version") != request.VERSION:
        raise _malformed("another version")
    if shape.text("host", 255) != host or shape.match("nonce", ID) != nonce:
        raise TemporaryError("4.7.0", "the store's answer belongs to another request")
    return Session(
        id=shape.match("session", ID),
        secret=shape.octets("secret", SHA256),
        expires=shape.integer("expires"),
        cookie=shape.octets("cookie"),
        cookie_key=shape.octets("cookie_key", SHA256),
        max_post=shape.integer("max_post"),
    )


def parse_listing(data: dict[str, Any]) -> Listing:
    """Parse the answer to a ``list``. Raises TemporaryError."""
    shape = Shape(data, _malformed)
    return Listing(
        posts=tuple(
            Listed(
                id=post.octets("id"),
                serial=post.integer("serial"),
                sender=post.match("sender", FINGERPRINT),
                address=post.address("address"),
                size=post.integer("size"),
                time=post.integer("time"),
            )
            for post in shape.objects("posts", request.MAX_POSTS)
        ),
        more=shape.flag("more"),
        serial=shape.integer("serial"),
        others=tuple(
            Other(other.match("sender", FINGERPRINT), other.address("address"), other.integer("count"))
            for other in shape.objects("others", MAX_OTHERS)
        ),
    )


def parse_outbox(data: dict[str, Any]) -> Outbox:
    """Parse the answer to an ``outbox``. Raises TemporaryError."""
    shape = Shape(data, _malformed)
    return Outbox(
        posts=tuple(
            Sent(
                id=post.octets("id"),
                serial=post.integer("serial"),
                to=post.match("to", FINGERPRINT),
                address=post.address("address"),
                size=post.integer("size"),
                state=post.match("state", _WORD),
                stored=post.integer("stored"),
                changed=post.integer("changed"),
                expires=post.integer("expires"),
            )
            for post in shape.objects("posts", request.MAX_POSTS)
        ),
        more=shape.flag("more"),
    )


def parse_results(data: dict[str, Any], ids: Sequence[bytes]) -> list[Result]:
    """Parse the results for these post ids, one each, in their order. Raises TemporaryError."""
    results = [
        Result(
            id=result.octets("id"),
            state=result.match("state", _WORD),
            error=result.match("error", _WORD) if "error" in result.members else "",
            message=_sentence(result.members.get("message", "")),
        )
        for result in Shape(data, _malformed).objects("results", request.MAX_POSTS)
    ]
    if [result.id for result in results] != list(ids):
        raise TemporaryError("4.3.0", "the store's answer is about other posts")
    return results


def _malformed(what: str) -> TemporaryError:
    return TemporaryError("4.3.0", f"the store's answer is malformed: {what}")


def _sentence(value: object) -> str:
    return one_line(str(value)[:_MAX_MESSAGE])
