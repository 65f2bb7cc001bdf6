"""How much there is in the database: what metrics show and no request asks for."""

from dataclasses import dataclass

from sqlalchemy import func, select

from services.post_manager.storage.database import Database
from services.post_manager.storage.schema import cookies, sessions, usage


@dataclass(frozen=True, slots=True)
class Amounts:
    """Posts that wait, the octets they take, sessions that are alive, and UDP cookies."""

    posts: int
    octets: int
    sessions: int
    cookies: int


def by_sender(database: Database) -> dict[str, tuple[int, int]]:
    """Return how many posts of each sender wait, and the octets they take. Raises StorageError."""
    with database.read() as connection:
        rows = connection.execute(select(usage.c.sender, usage.c.posts, usage.c.octets))
        return {row.sender: (int(row.posts), int(row.octets)) for row in rows}


def measure(database: Database, now: int) -> Amounts:
    """Measure it; a row for each account that ever stored, and two indexes, are read. Raises StorageError."""
    with database.read() as connection:
        posts, octets = connection.execute(
            select(func.coalesce(func.sum(usage.c.posts), 0), func.coalesce(func.sum(usage.c.octets), 0))
        ).one()
        alive = select(func.count()).select_from(sessions).where(sessions.c.expires > now)
        known = select(func.count()).select_from(cookies)
        return Amounts(
            int(posts),
            int(octets),
            int(connection.execute(alive).scalar_one()),
            int(connection.execute(known).scalar_one()),
        )
