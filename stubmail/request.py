"""Signed requests: the JSON that every operation begins with, its MAC, and the refusals (protocol.md §4). Sans-IO."""

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stubmail.address import Address
from stubmail.shape import FINGERPRINT, ID, SHA256, Shape, parse_json

VERSION = 1
OPEN, STORE, LIST, FETCH, ACK, OUTBOX, WITHDRAW = "open", "store", "list", "fetch", "ack", "outbox", "withdraw"
OPERATIONS = frozenset((OPEN, STORE, LIST, FETCH, ACK, OUTBOX, WITHDRAW))
STATES = ("waiting", "fetched", "expired", "withdrawn")

# Limits of protocol.md §9: octets, but for counts and seconds.
MAX_REQUEST = 262_144
MAX_SIGNATURE = 16_384
MAX_CERTIFICATE = 65_536
MAX_HEAD = 16_384
MAX_PARTS = 2_000  # further parts, beside request and mac
MAX_POSTS = 1_000
MAX_SENDERS = 4_000
MAX_OPEN_ANSWER = 16_384
MAX_JSON_ANSWER = 4 * 2**20  # a listing of 1,000 posts and its others
CLOCK_SKEW = 300  # seconds
NONCE_LIFETIME = 600  # seconds

# protocol.md §4.4
STATUS = {
    "malformed": 400,
    "version": 400,
    "operation": 400,
    "certificate": 400,
    "digest": 400,
    "session": 401,
    "mac": 401,
    "signature": 401,
    "clock-skew": 403,
    "account": 403,
    "token": 403,
    "method": 405,
    "replayed": 409,
    "length-required": 411,
    "too-large": 413,
    "media-type": 415,
    "wrong-host": 421,
    "rate": 429,
    "unavailable": 503,
    "no-space": 507,
}
RETRYABLE = frozenset(("token", "rate", "unavailable", "no-space"))

_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9])?")
_STATE = re.compile("|".join(STATES))


class Refusal(Exception):
    """A request is refused: a stable code of protocol.md §4.4, a sentence, and its HTTP status."""

    def __init__(self, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = STATUS[code]
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Part:
    """What a request says of one further part: its SHA-256 (32 octets) and its size in octets."""

    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request's JSON: the members all operations share, and in ``members`` the operation's own."""

    op: str
    host: str
    time: int
    nonce: str
    parts: tuple[Part, ...] = ()
    fingerprint: str = ""  # open only
    address: Address | None = None  # open only
    session: str = ""  # all but open
    members: Mapping[str, Any] = field(default_factory=dict)

    def to_wire(self) -> bytes:
        """Return the octets that are signed or MACed."""
        data: dict[str, Any] = {"version": VERSION, "op": self.op, "host": self.host, "time": self.time}
        data["nonce"] = self.nonce
        data["parts"] = [{"sha256": part.sha256.hex(), "size": part.size} for part in self.parts]
        if self.op == OPEN:
            data |= {"fingerprint": self.fingerprint, "address": str(self.address)}
        else:
            data["session"] = self.session
        return json.dumps(data | dict(self.members), ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_wire(cls, data: bytes) -> "Request":
        """Parse and check the shape of what all operations share.

        Raises Refusal: malformed, version, operation or, for a size, too-large.
        """
        if len(data) > MAX_REQUEST:
            raise Refusal("too-large", f"the request part is over {MAX_REQUEST} octets")
        shape = Shape(parse_json(data, _malformed), _malformed)
        version = shape.integer("version")
        if version != VERSION:
            raise Refusal("version", f"version {version} is not spoken here, only {VERSION}")
        op = shape.text("op", 16)
        if op not in OPERATIONS:
            raise Refusal("operation", f"there is no operation {op!r}")
        opening = op == OPEN
        return cls(
            op=op,
            host=shape.match("host", _HOST),
            time=shape.integer("time"),
            nonce=shape.match("nonce", ID),
            parts=tuple(
                Part(part.octets("sha256", SHA256), part.integer("size")) for part in shape.objects("parts", MAX_PARTS)
            ),
            fingerprint=shape.match("fingerprint", FINGERPRINT) if opening else "",
            address=shape.address("address") if opening else None,
            session="" if opening else shape.match("session", ID),
            members=shape.members,
        )


@dataclass(frozen=True, slots=True)
class StorePost:
    """One post of a store request: for whom, and which parts are its head and its body (protocol.md §5.2)."""

    id: bytes
    to: str
    address: Address
    head: int
    body: int


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list request asks for (protocol.md §5.3)."""

    senders: tuple[str, ...]
    after: int
    limit: int


@dataclass(frozen=True, slots=True)
class OutboxQuery:
    """What an outbox request asks for (protocol.md §5.6); no states means all, ``since`` None in order of serials."""

    after: int
    limit: int
    states: tuple[str, ...]
    since: int | None = None


def mac(secret: bytes, data: bytes) -> bytes:
    """Return the 32 octets of the ``mac`` part for a request's octets under a session's secret."""
    return hmac.digest(secret, data, "sha256")


def store_posts(request: Request) -> list[StorePost]:
    """Return the posts of a store request. Raises Refusal(malformed), also when an id stands twice."""
    posts = []
    for shape in Shape(request.members, _malformed).objects("posts", MAX_POSTS):
        head, body = shape.integer("head"), shape.integer("body")
        if max(head, body) >= len(request.parts):
            raise _malformed("a post names a part that is not there")
        if request.parts[head].size > MAX_HEAD:
            raise Refusal("too-large", f"the head of a post is over {MAX_HEAD} octets")
        to, address = shape.match("to", FINGERPRINT), shape.address("address")
        posts.append(StorePost(shape.octets("id"), to, address, head, body))
    if len({post.id for post in posts}) < len(posts):
        raise _malformed("a post id stands twice")
    return posts


def list_query(request: Request) -> ListQuery:
    """Return what a list request asks for. Raises Refusal(malformed)."""
    shape = Shape(request.members, _malformed)
    senders = shape.texts("senders", MAX_SENDERS, FINGERPRINT)
    return ListQuery(tuple(senders), shape.integer("after"), _limit(shape))


def fetch_posts(request: Request) -> list[tuple[bytes, int]]:
    """Return (post id, offset) for each post that a fetch request asks for. Raises Refusal(malformed)."""
    shapes = Shape(request.members, _malformed).objects("posts", MAX_POSTS)
    return [(shape.octets("id"), shape.integer("offset")) for shape in shapes]


def post_ids(request: Request) -> list[bytes]:
    """Return the post ids of an ack or withdraw request. Raises Refusal(malformed)."""
    return [bytes.fromhex(item) for item in Shape(request.members, _malformed).texts("ids", MAX_POSTS, ID)]


def outbox_query(request: Request) -> OutboxQuery:
    """Return what an outbox request asks for. Raises Refusal(malformed)."""
    shape = Shape(request.members, _malformed)
    states = shape.texts("states", len(STATES), _STATE) if "states" in shape.members else []
    since = shape.integer("since") if "since" in shape.members else None
    return OutboxQuery(shape.integer("after"), _limit(shape), tuple(states), since)


def _malformed(what: str) -> Refusal:
    return Refusal("malformed", what)


def _limit(shape: Shape) -> int:
    limit = shape.integer("limit")
    if not 1 <= limit <= MAX_POSTS:
        raise _malformed(f"limit must be 1 to {MAX_POSTS}")
    return limit
