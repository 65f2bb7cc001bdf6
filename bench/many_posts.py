"""Fills a store with any number of waiting posts in seconds: rows that the database makes up by itself.

What is left out is what only a fetch looks at: the chunks of their bodies.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, update

from services.post_manager.storage.database import Database
from services.post_manager.storage.schema import SERIAL, WAITING, counters
from services.post_manager.storage.serials import BITS

SENDERS = 20  # of each group; they write in turn
_TAIL = "F" * 32
# For each engine: 16 and 32 random octets, and the eight upper-case hexadecimal digits of a number.
_UUID = "uuid_send(gen_random_uuid())"
_WORDS = {
    "sqlite": ("randomblob(16)", "randomblob(32)", "printf('%08X', {})"),
    "postgresql": (_UUID, f"{_UUID} || {_UUID}", "upper(lpad(to_hex({}), 8, '0'))"),
}
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})"
_POSTS = """
    INSERT INTO posts
        (serial, id, state, sender, sender_address, recipient, address, size, stored, changed, expires, due,
        content)
    {numbers} SELECT {serial} + i, {random}, {waiting}, {sender} || '{tail}', 'friend@alpha.example',
        {recipient} || '{tail}', 'reader@beta.example', 5000, {now}, {now}, {now} + 2592000, {now} + 2592000,
        {serial} + i FROM n
"""
_CONTENTS = "INSERT INTO contents (id, sender, digest, size, refs) SELECT serial, sender, {random}, 5000, 1 FROM posts"
_TALLIES = """
    INSERT INTO tallies (recipient, sender, address, posts)
    SELECT recipient, sender, sender_address, count(*) FROM posts WHERE state = {waiting} GROUP BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Recipients, by number, and how many posts wait for each; SENDERS wrote these, from number ``sender`` on."""

    recipient: int
    recipients: int
    each: int
    sender: int

    def people(self, most: int) -> list[str]:
        """The first of the recipients."""
        return [fingerprint(self.recipient + index) for index in range(min(most, self.recipients))]

    def senders(self) -> list[str]:
        """Who wrote to them."""
        return [fingerprint(self.sender + index) for index in range(SENDERS)]


def fingerprint(number: int) -> str:
    """The fingerprint of somebody who is nothing but a number."""
    return f"{number:08X}{_TAIL}"


def fill(database: Database, groups: Sequence[Group]) -> None:
    """Have the posts of these groups wait, in an empty store; each group's are newer than those of the one before."""
    with database.write() as connection:
        # One large transaction, unlike any of the store's own.
        on_sqlite = connection.dialect.name == "sqlite"
        connection.exec_driver_sql("PRAGMA cache_size = -1000000" if on_sqlite else "SET LOCAL statement_timeout TO 0")
        now = int(time.time())
        serial = now << BITS
        for group in groups:
            _add(connection, group, serial, now)
            serial += group.recipients * group.each
        connection.exec_driver_sql(_CONTENTS.format(random=_WORDS[connection.dialect.name][1]))
        connection.exec_driver_sql(_TALLIES.format(waiting=WAITING))
        connection.execute(update(counters).where(counters.c.name == SERIAL).values(value=serial))
    if not on_sqlite:
        with database.write() as connection:
            connection.exec_driver_sql("ANALYZE")  # which the server does by itself in time


def _add(connection: Connection, group: Group, serial: int, now: int) -> None:
    random, _, digits = _WORDS[connection.dialect.name]
    statement = _POSTS.format(
        numbers=_NUMBERS.format(count=group.recipients * group.each),
        serial=serial,
        random=random,
        waiting=WAITING,
        # Everybody gets a post before anybody gets the next one: neighbours in the table are not one person's.
        recipient=digits.format(f"{group.recipient} + i % {group.recipients}"),
        sender=digits.format(f"{group.sender} + i / {group.recipients} % {SENDERS}"),
        tail=_TAIL,
        now=now,
    )
    connection.exec_driver_sql(statement)
