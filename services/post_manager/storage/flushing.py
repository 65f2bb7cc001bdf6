"""The end of cookies before their time: all of them, or those of one certificate."""

from sqlalchemy import delete, func, or_, select, union

from services.post_manager.storage.database import Database
from services.post_manager.storage.schema import cookies, posts, sessions
from stubmail.address import Address

AT_ONCE = 5_000  # cookies in one transaction: others want to write meanwhile


def delete_cookies(database: Database, fingerprint: str | None = None) -> int:
    """Delete the cookies of one certificate, or all that there are; return how many. Raises StorageError."""
    wanted = select(cookies.c.id).limit(AT_ONCE)
    if fingerprint is not None:
        wanted = wanted.where(cookies.c.fingerprint == fingerprint)
    total = 0
    while True:
        with database.write() as connection:
            count = connection.execute(delete(cookies).where(cookies.c.id.in_(wanted))).rowcount
        total += count
        if count < AT_ONCE:
            return total


def fingerprints_of(database: Database, address: Address) -> set[str]:
    """Return the certificates that an address has opened sessions with, or got posts for. Reads the whole tables."""
    wanted = (
        select(table.c[owner]).where(or_(func.lower(table.c.address) == address.key, table.c.address == str(address)))
        for table, owner in ((sessions, "fingerprint"), (posts, "recipient"))
    )
    with database.read() as connection:
        return set(connection.execute(union(*wanted)).scalars())
