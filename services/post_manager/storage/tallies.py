"""Sums over waiting posts, kept with every change: a check or a quota costs the same for any number of posts."""

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from services.post_manager.storage.schema import tallies, usage

Pair = tuple[str, str, str]  # recipient, sender, the sender's address

_ADD = (
    update(tallies)
    .where(
        tallies.c.recipient == bindparam("r"), tallies.c.sender == bindparam("s"), tallies.c.address == bindparam("a")
    )
    .values(posts=tallies.c.posts + bindparam("n"))
)
_DROP = delete(tallies).where(
    tallies.c.recipient == bindparam("r"),
    tallies.c.sender == bindparam("s"),
    tallies.c.address == bindparam("a"),
    tallies.c.posts <= 0,
)
_ADD_USAGE = (
    update(usage)
    .where(usage.c.sender == bindparam("s"))
    .values(posts=usage.c.posts + bindparam("n"), octets=usage.c.octets + bindparam("o"))
)
_USAGE = select(usage.c.posts, usage.c.octets).where(usage.c.sender == bindparam("s")).with_for_update()


def add(connection: Connection, counts: Mapping[Pair, int]) -> None:
    """Count more posts that wait; always in the same order, so that two transactions never wait for each other."""
    for (recipient, sender, address), number in sorted(counts.items()):
        key = {"r": recipient, "s": sender, "a": address}
        if connection.execute(_ADD, key | {"n": number}).rowcount == 0:
            row = {"recipient": recipient, "sender": sender, "address": address, "posts": number}
            connection.execute(insert(tallies), row)


def take(connection: Connection, counts: Mapping[Pair, int]) -> None:
    """Count posts that no longer wait."""
    for (recipient, sender, address), number in sorted(counts.items()):
        key = {"r": recipient, "s": sender, "a": address}
        connection.execute(_ADD, key | {"n": -number})
        connection.execute(_DROP, key)


def usage_of(connection: Connection, sender: str) -> tuple[int, int]:
    """Return how many posts of a sender wait, and how many octets they take in the database."""
    row = connection.execute(_USAGE, {"s": sender}).one_or_none()
    return (row.posts, row.octets) if row is not None else (0, 0)


def add_usage(connection: Connection, sender: str, number: int, octets: int) -> None:
    """Count posts and octets to a sender's usage."""
    if connection.execute(_ADD_USAGE, {"s": sender, "n": number, "o": octets}).rowcount == 0:
        connection.execute(insert(usage), {"sender": sender, "posts": number, "octets": octets})


def take_usage(connection: Connection, number: Counter[str], octets: Counter[str]) -> None:
    """Give back what posts that no longer wait took, by sender."""
    for sender in sorted(number):
        connection.execute(_ADD_USAGE, {"s": sender, "n": -number[sender], "o": -octets[sender]})
