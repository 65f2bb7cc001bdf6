"""What several requests have to store, done in one transaction: judged one after the other, written together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection

from services.post_manager.storage import contents, nonces, serials, tallies
from services.post_manager.storage.contents import Body, Key
from services.post_manager.storage.nonces import Nonce
from services.post_manager.storage.schema import WAITING, posts
from services.post_manager.storage.statements import fetch, insert, run

_OWNERS = "SELECT id, sender, recipient, address FROM posts WHERE id IN ({})"
_INSERT = insert(
    posts,
    *("serial", "id", "state", "sender", "sender_address", "recipient", "address"),
    *("size", "stored", "changed", "expires", "due", "content", "head"),
)

Owner = tuple[str, str, str]  # sender, recipient, the recipient's address


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose posts are stored: a certificate's fingerprint, and the address it opened the session with."""

    fingerprint: str
    address: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What a sender may store: posts that wait, octets they take, octets of one post; seconds until a post expires."""

    quota_posts: int
    quota_octets: int
    max_post: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class NewPost:
    """One post to store: ``body`` is an index into the bodies that come with it."""

    id: bytes
    recipient: str
    address: str
    head: bytes
    body: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a post was not stored: ``too-large``, ``quota`` or ``id``, and a sentence."""

    code: str
    message: str


KNOWN: Final = "known"  # the verdict on a post that was stored before
Verdict = Refused | Literal["known"] | None  # None: it is stored now


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """One request's posts, with the nonce to use up for it, if that was not done already."""

    sender: Sender
    posts: Sequence[NewPost]
    bodies: Sequence[Body]
    terms: Terms
    now: int
    nonce: Nonce | None = None

    def body(self, post: NewPost) -> Body:
        """The body of one of the posts."""
        return self.bodies[post.body]

    def key(self, post: NewPost) -> Key:
        """What the body of one of the posts is stored under."""
        return self.sender.fingerprint, self.body(post).digest


def store(connection: Connection, requests: Sequence[Wanted]) -> list[list[Verdict] | None]:
    """Store the posts of some requests; return the verdicts on each one's posts, None for a replayed request."""
    ours = [request for request in requests if request.nonce is not None]
    fresh = dict(zip(ours, nonces.use(connection, [r.nonce for r in ours if r.nonce is not None]), strict=True))
    good = [request for request in requests if fresh.get(request, True)]
    judge = _Judge(connection, good)
    verdicts = {request: [judge.judge(request, post) for post in request.posts] for request in good}
    if judge.accepted:
        _write(connection, judge)
    return [verdicts.get(request) for request in requests]


@dataclass(slots=True)
class _Sum:
    """What of a sender's waits: in the database, and as accepted just now."""

    posts: int = 0
    octets: int = 0
    more_posts: int = 0
    more_octets: int = 0


@dataclass(slots=True)
class _Use:
    """A body that accepted posts need: where it comes from, and how many they are."""

    body: Body
    posts: int = 0


class _Judge:
    """Judges one post after the other, counting what the earlier ones of the same transaction take."""

    def __init__(self, connection: Connection, requests: Sequence[Wanted]) -> None:
        every = [(request, post) for request in requests for post in request.posts]
        self._owners = _owners(connection, (post.id for _, post in every))
        new = [(request, post) for request, post in every if post.id not in self._owners]
        self.known = contents.known(connection, {request.key(post) for request, post in new}) if new else {}
        senders = sorted({request.sender.fingerprint for request, _ in new})
        before = tallies.usage_of(connection, senders) if new else {}
        self.sums = {sender: _Sum(*before.get(sender, (0, 0))) for sender in senders}
        self.accepted: list[tuple[Wanted, NewPost]] = []
        self.uses: dict[Key, _Use] = {}

    def judge(self, request: Wanted, post: NewPost) -> Verdict:
        # The content is left out on purpose: a gateway that lost its sealed copy seals the same message anew.
        owner = request.sender.fingerprint, post.recipient, post.address
        if (before := self._owners.get(post.id)) is not None:
            return KNOWN if before == owner else Refused("id", "that id belongs to another post")
        key, octets, terms = request.key(post), len(post.head), request.terms
        total = self.sums[request.sender.fingerprint]
        if octets + request.body(post).size > terms.max_post:
            return Refused("too-large", f"a post may have {terms.max_post} octets")
        if key not in self.known and key not in self.uses:
            octets += request.body(post).size
        if total.posts >= terms.quota_posts:
            return Refused("quota", f"of {terms.quota_posts} posts that may wait, {total.posts} wait already")
        if total.octets + octets > terms.quota_octets:
            return Refused("quota", f"of {terms.quota_octets} octets that may wait, {total.octets} wait already")
        total.posts += 1
        total.octets += octets
        total.more_posts += 1
        total.more_octets += octets
        self.uses.setdefault(key, _Use(request.body(post))).posts += 1
        self._owners[post.id] = owner
        self.accepted.append((request, post))
        return None


def _owners(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, Owner]:
    rows = fetch(connection, _OWNERS, ((post_id,) for post_id in ids))
    return {post_id: (sender, recipient, address) for post_id, sender, recipient, address in rows}


def _write(connection: Connection, judge: _Judge) -> None:
    accepted = judge.accepted
    now = max(request.now for request, _ in accepted)
    new = {key: use for key, use in judge.uses.items() if key not in judge.known}
    content_ids = judge.known | dict(zip(new, contents.new_ids(now, len(new)), strict=True))
    contents.add(connection, [contents.New(content_ids[key], key, use.body, use.posts) for key, use in new.items()])
    contents.share(connection, {judge.known[key]: use.posts for key, use in judge.uses.items() if key in judge.known})
    tallies.add(
        connection,
        Counter((post.recipient, request.sender.fingerprint, request.sender.address) for request, post in accepted),
    )
    tallies.add_usage(
        connection, {sender: (total.more_posts, total.more_octets) for sender, total in judge.sums.items()}
    )
    # Serials come last: nobody else gets any until the commit, and a large body takes its time to be written.
    serial = serials.take(connection, len(accepted), now)
    rows = []
    for index, (request, post) in enumerate(accepted):
        size, expires = len(post.head) + request.body(post).size, request.now + request.terms.lifetime
        who = request.sender.fingerprint, request.sender.address, post.recipient, post.address
        times = request.now, request.now, expires, expires
        rows.append((serial + index, post.id, WAITING, *who, size, *times, content_ids[request.key(post)], post.head))
    run(connection, _INSERT, rows)
