"""Posts from the sender's side: store them exactly once, within the sender's quota (protocol.md §5.2)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, insert, select

from services.post_manager.storage import contents, serials, tallies
from services.post_manager.storage.contents import Body
from services.post_manager.storage.database import Database
from services.post_manager.storage.schema import WAITING, posts

_STORED_BEFORE = select(posts.c.id, posts.c.sender, posts.c.recipient, posts.c.address).where(
    posts.c.id.in_(bindparam("ids", expanding=True))
)
_INSERT = insert(posts)


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


def store(
    database: Database, sender: Sender, new: Sequence[NewPost], bodies: Sequence[Body], terms: Terms, now: int
) -> list[Refused | None]:
    """Store posts durably, all in one transaction; None for each that is stored, now or ever before.

    Raises StorageError, and then none of them is stored that was not before.
    """
    return database.transact(lambda connection: _store(connection, sender, new, bodies, terms, now))


def _store(
    connection: Connection, sender: Sender, new: Sequence[NewPost], bodies: Sequence[Body], terms: Terms, now: int
) -> list[Refused | None]:
    before = _stored_before(connection, [post.id for post in new])
    fresh = [post for post in new if post.id not in before]
    verdicts: dict[bytes, Refused | None] = {
        post_id: None if owner == _owner(sender, post) else Refused("id", "that id belongs to another post")
        for post in new
        if (owner := before.get(post_id := post.id)) is not None
    }
    if fresh:
        admission = _Quota(connection, sender, bodies, terms)
        verdicts |= {post.id: admission.judge(post) for post in fresh}
        accepted = [post for post in fresh if verdicts[post.id] is None]
        if accepted:
            _insert(connection, sender, accepted, bodies, admission, now, now + terms.lifetime)
    return [verdicts[post.id] for post in new]


def _stored_before(connection: Connection, ids: Sequence[bytes]) -> dict[bytes, tuple[str, str, str]]:
    rows = connection.execute(_STORED_BEFORE, {"ids": list(ids)})
    return {post_id: (sender, recipient, address) for post_id, sender, recipient, address in rows}


def _owner(sender: Sender, post: NewPost) -> tuple[str, str, str]:
    # The content is left out on purpose: a gateway that lost its sealed copy seals the same message anew.
    return sender.fingerprint, post.recipient, post.address


class _Quota:
    """Judges one post after the other, counting what the earlier ones of the same request take."""

    def __init__(self, connection: Connection, sender: Sender, bodies: Sequence[Body], terms: Terms) -> None:
        self._terms = terms
        self._bodies = bodies
        self._posts, self._octets = tallies.usage_of(connection, sender.fingerprint)
        self.added_octets = 0
        self.uses: Counter[bytes] = Counter()  # by digest
        self.stored = contents.known(connection, sender.fingerprint, {body.digest for body in bodies})

    def judge(self, post: NewPost) -> Refused | None:
        body = self._bodies[post.body]
        if len(post.head) + body.size > self._terms.max_post:
            return Refused("too-large", f"a post may have {self._terms.max_post} octets")
        octets = len(post.head)
        if body.digest not in self.stored and body.digest not in self.uses:
            octets += body.size
        if self._posts >= self._terms.quota_posts:
            return Refused("quota", f"{self._posts} posts wait already, {self._terms.quota_posts} may")
        if self._octets + octets > self._terms.quota_octets:
            return Refused("quota", f"{self._octets} octets wait already, {self._terms.quota_octets} may")
        self._posts += 1
        self._octets += octets
        self.added_octets += octets
        self.uses[body.digest] += 1
        return None


def _insert(
    connection: Connection,
    sender: Sender,
    accepted: Sequence[NewPost],
    bodies: Sequence[Body],
    admission: _Quota,
    now: int,
    expires: int,
) -> None:
    content_ids = _place(connection, sender, bodies, admission)
    serial = serials.take(connection, len(accepted), now)
    rows = [
        {
            "serial": serial + index,
            "id": post.id,
            "state": WAITING,
            "sender": sender.fingerprint,
            "sender_address": sender.address,
            "recipient": post.recipient,
            "address": post.address,
            "size": len(post.head) + bodies[post.body].size,
            "stored": now,
            "changed": now,
            "expires": expires,
            "due": expires,
            "content": content_ids[bodies[post.body].digest],
            "head": post.head,
        }
        for index, post in enumerate(accepted)
    ]
    connection.execute(_INSERT, rows)
    counts = Counter((post.recipient, sender.fingerprint, sender.address) for post in accepted)
    tallies.add(connection, counts)
    tallies.add_usage(connection, sender.fingerprint, len(accepted), admission.added_octets)


def _place(connection: Connection, sender: Sender, bodies: Sequence[Body], admission: _Quota) -> Mapping[bytes, int]:
    content_ids = dict(admission.stored)
    by_digest = {body.digest: body for body in bodies}
    for digest, refs in admission.uses.items():
        if digest in admission.stored:
            contents.share(connection, content_ids[digest], refs)
        else:
            content_ids[digest] = contents.add(connection, sender.fingerprint, by_digest[digest], refs)
    return content_ids
