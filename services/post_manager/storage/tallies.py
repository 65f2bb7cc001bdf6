"""Sums over waiting posts, kept with every change: a check or a quota costs the same for any number of posts."""

from collections import Counter
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, bindparam, delete, update

from services.post_manager.storage.schema import tallies, usage
from services.post_manager.storage.statements import fetch, insert_or_add, run

Pair = tuple[str, str, str]  # recipient, sender, the sender's address
Sum = tuple[int, int]  # how many posts of a sender wait, and how many octets they take in the database

_MINE = (
    tallies.c.recipient == bindparam("r"),
    tallies.c.sender == bindparam("s"),
    tallies.c.address == bindparam("a"),
)
_ADD = insert_or_add(tallies)
_TAKE = update(tallies).where(*_MINE).values(posts=tallies.c.posts - bindparam("n"))
_DROP = delete(tallies).where(*_MINE, tallies.c.posts <= 0)
_ADD_USAGE = insert_or_add(usage)
_TAKE_USAGE = (
    update(usage)
    .where(usage.c.sender == bindparam("s"))
    .values(posts=usage.c.posts - bindparam("n"), octets=usage.c.octets - bindparam("o"))
)
_USAGE = "SELECT sender, posts, octets FROM usage WHERE sender IN ({}) ORDER BY sender"

# All of these go through their rows in the same order, so that two transactions never wait for each other.


def add(connection: Connection, counts: Mapping[Pair, int]) -> None:
    """Count more posts that wait."""
    run(connection, _ADD, [(*pair, number) for pair, number in sorted(counts.items())])


def take(connection: Connection, counts: Mapping[Pair, int]) -> None:
    """Count posts that no longer wait."""
    rows = [
        {"r": recipient, "s": sender, "a": address, "n": number}
        for (recipient, sender, address), number in sorted(counts.items())
    ]
    if rows:
        connection.execute(_TAKE, rows)
        connection.execute(_DROP, rows)


def usage_of(connection: Connection, senders: Iterable[str]) -> dict[str, Sum]:
    """Return the sums of these senders; those for whom nothing waits may be missing."""
    rows = fetch(connection, _USAGE, ((sender,) for sender in senders), lock=True)
    return {sender: (number, octets) for sender, number, octets in rows}


def add_usage(connection: Connection, sums: Mapping[str, Sum]) -> None:
    """Count posts and octets to their senders' usage."""
    run(connection, _ADD_USAGE, [(sender, *total) for sender, total in sorted(sums.items())])


def take_usage(connection: Connection, number: Counter[str], octets: Counter[str]) -> None:
    """Give back what posts that no longer wait took, by sender."""
    rows = [{"s": sender, "n": number[sender], "o": octets[sender]} for sender in sorted(number)]
    if rows:
        connection.execute(_TAKE_USAGE, rows)
