"""The sums that a store keeps, made anew from what they sum up, to find those that drifted."""

from collections.abc import Callable, Iterator, Mapping

from sqlalchemy import and_, func, select

from services.post_manager.storage.schema import SERIAL, WAITING, contents, counters, posts, tallies, usage
from services.post_manager.storage.snapshot import Snapshot

_WAITS = posts.c.state == WAITING
_USES = select(posts.c.content, func.count().label("number")).where(_WAITS).group_by(posts.c.content).subquery("uses")
_PAIRS = (
    select(posts.c.recipient, posts.c.sender, posts.c.sender_address, func.count().label("number"))
    .where(_WAITS)
    .group_by(posts.c.recipient, posts.c.sender, posts.c.sender_address)
    .subquery("pairs")
)
_HEADS = (
    select(posts.c.sender, func.count().label("number"), func.sum(func.length(posts.c.head)).label("octets"))
    .where(_WAITS)
    .group_by(posts.c.sender)
    .subquery("heads")
)
_BODIES = (
    select(contents.c.sender, func.sum(contents.c.size).label("octets")).group_by(contents.c.sender).subquery("bodies")
)
_SAME_PAIR = and_(
    tallies.c.recipient == _PAIRS.c.recipient,
    tallies.c.sender == _PAIRS.c.sender,
    tallies.c.address == _PAIRS.c.sender_address,
)


def wrong_references(source: Snapshot) -> Iterator[str]:
    """Contents whose count of references is not the number of waiting posts that use them."""
    uses = func.coalesce(_USES.c.number, 0)
    query = select(contents.c.id, contents.c.sender, contents.c.refs, uses.label("uses"))
    query = query.outerjoin(_USES, _USES.c.content == contents.c.id).where(contents.c.refs != uses)
    for row in source.stream(query):
        if row.uses:
            yield f"content {row.id} of {row.sender}: {row.uses} waiting posts use it, {row.refs} are noted"
        else:
            yield f"content {row.id} of {row.sender}: an orphan, no waiting post uses it"


def wrong_tallies(source: Snapshot) -> Iterator[str]:
    """Numbers of waiting posts, by recipient and sender, that are not what counting gives."""
    noted = func.coalesce(tallies.c.posts, 0)
    query = select(_PAIRS, noted.label("noted")).outerjoin(tallies, _SAME_PAIR).where(noted != _PAIRS.c.number)
    for row in source.stream(query):
        yield f"from {row.sender} ({row.sender_address}) to {row.recipient}: {row.number} wait, {row.noted} are noted"
    surplus = select(tallies).outerjoin(_PAIRS, _SAME_PAIR).where(_PAIRS.c.recipient.is_(None), tallies.c.posts != 0)
    for row in source.stream(surplus):
        yield f"from {row.sender} ({row.address}) to {row.recipient}: none wait, {row.posts} are noted"


def wrong_usage(source: Snapshot) -> Iterator[str]:
    """What senders use, in posts and octets, where it is not what counting gives."""
    number, octets = func.coalesce(usage.c.posts, 0), func.coalesce(usage.c.octets, 0)
    query = (
        select(_HEADS.c.sender, _HEADS.c.number, _HEADS.c.octets, number.label("noted"), octets.label("noted_octets"))
        .add_columns(func.coalesce(_BODIES.c.octets, 0).label("bodies"))
        .outerjoin(_BODIES, _BODIES.c.sender == _HEADS.c.sender)
        .outerjoin(usage, usage.c.sender == _HEADS.c.sender)
    )
    for row in source.stream(query):
        real = row.number, int(row.octets) + int(row.bodies)
        if real != (row.noted, row.noted_octets):
            noted = f"{row.noted} posts with {row.noted_octets} octets are noted"
            yield f"of {row.sender} wait {real[0]} posts with {real[1]} octets, {noted}"
    surplus = select(usage).outerjoin(_HEADS, _HEADS.c.sender == usage.c.sender)
    for row in source.stream(surplus.where(_HEADS.c.sender.is_(None), (usage.c.posts != 0) | (usage.c.octets != 0))):
        yield f"of {row.sender} waits nothing, {row.posts} posts with {row.octets} octets are noted"


def wrong_serial(source: Snapshot) -> Iterator[str]:
    """The counter of serials, when a post has a larger one."""
    largest = select(func.coalesce(func.max(posts.c.serial), 0)).scalar_subquery()
    query = select(counters.c.value, largest.label("largest")).where(counters.c.name == SERIAL)
    rows = source.rows(query)
    if not rows:
        yield "the counter of serials is missing"
    for row in rows:
        if row.value < row.largest:
            yield f"the counter of serials stands at {row.value}, a post has {row.largest}"


CHECKS: Mapping[str, Callable[[Snapshot], Iterator[str]]] = {
    "references": wrong_references,
    "tallies": wrong_tallies,
    "usage": wrong_usage,
    "serials": wrong_serial,
}
