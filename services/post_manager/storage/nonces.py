"""The nonces of authentic requests: each is good once, for all processes and replicas (protocol.md §4.3, 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, bindparam, select

from services.post_manager.storage.database import Database, Work
from services.post_manager.storage.schema import nonces
from services.post_manager.storage.statements import fetch, insert_new

_INSERT = insert_new(nonces)
_SEEN = select(nonces.c.time).where(nonces.c.client == bindparam("client"), nonces.c.nonce == bindparam("nonce"))


T = TypeVar("T")


class Replayed(Exception):
    """A nonce was used before."""


@dataclass(frozen=True, slots=True)
class Nonce:
    """What a client (a session's id, or the fingerprint of who opens one) sends once: 16 octets, at a Unix time."""

    client: str
    nonce: bytes
    time: int


def seen(connection: Connection, nonce: Nonce) -> bool:
    """Tell whether this client used this nonce before."""
    return connection.execute(_SEEN, {"client": nonce.client, "nonce": nonce.nonce}).first() is not None


def remember(database: Database, nonce: Nonce) -> bool:
    """Note a nonce that came with an authentic request, in a transaction of its own; false when it was used before."""
    # Not durable: what a replay after a power failure could do, it does only once (ids, offsets, states).
    return database.batch(use, nonce, durable=False)


def use(connection: Connection, wanted: Sequence[Nonce]) -> list[bool]:
    """Note these nonces in the transaction that also does what they came for; tell for each whether it is new."""
    rows = [(nonce.client, nonce.nonce, nonce.time) for nonce in wanted]
    new = {(client, octets) for client, octets in fetch(connection, _INSERT, rows)}
    verdicts = []
    for nonce in wanted:
        key = nonce.client, nonce.nonce
        verdicts.append(key in new)
        new.discard(key)  # when it stands twice among them, it is good for the first one
    return verdicts


def once(database: Database, nonce: Nonce | None, work: Work[T]) -> T:
    """Run ``work`` in a durable transaction that uses up the nonce too. Raises Replayed when it was used before."""

    def both(connection: Connection) -> tuple[T] | None:
        if nonce is not None and not use(connection, [nonce])[0]:
            return None
        return (work(connection),)

    result = database.transact(both)
    if result is None:
        raise Replayed
    return result[0]
