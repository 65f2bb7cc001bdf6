"""Sessions and cookies: in the database, so that all who serve requests share them."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, bindparam, delete, insert, select, update

from services.post_manager.storage.database import Database
from services.post_manager.storage.schema import cookies, nonces, sessions
from stubmail.request import CLOCK_SKEW

# protocol.md §9
SESSION_SECONDS = 3_600
SESSIONS_EACH = 16
COOKIE_SECONDS = 90 * 86_400
COOKIES_EACH = 16

_SESSION = select(sessions).where(sessions.c.id == bindparam("id"))


@dataclass(frozen=True, slots=True)
class Session:
    """An open session: id 16 octets, secret 32; for whom; when it ends, in Unix time."""

    id: bytes
    secret: bytes
    fingerprint: str
    address: str
    expires: int


@dataclass(frozen=True, slots=True)
class Cookie:
    """What a check is made with (protocol.md §6): id 16 octets, secret 32."""

    id: bytes
    secret: bytes


def new_session(fingerprint: str, address: str, now: int, cookie_id: bytes) -> tuple[Session, Cookie]:
    """Make up a session, and a cookie with a new id; they begin to be good when they are saved."""
    session = Session(secrets.token_bytes(16), secrets.token_bytes(32), fingerprint, address, now + SESSION_SECONDS)
    return session, Cookie(cookie_id, secrets.token_bytes(32))


def save(database: Database, session: Session, cookie: Cookie, now: int) -> None:
    """Save a session and a cookie, durably; when there are too many of one fingerprint, the oldest end."""
    fingerprint = session.fingerprint
    with database.write() as connection:
        _trim(connection, sessions, "expires", fingerprint, SESSIONS_EACH - 1, session.expires + CLOCK_SKEW)
        _trim(connection, cookies, "used", fingerprint, COOKIES_EACH - 1, now + CLOCK_SKEW)
        connection.execute(
            insert(sessions),
            {
                "id": session.id,
                "secret": session.secret,
                "fingerprint": fingerprint,
                "address": session.address,
                "expires": session.expires,
            },
        )
        connection.execute(
            insert(cookies), {"id": cookie.id, "secret": cookie.secret, "fingerprint": fingerprint, "used": now}
        )


def _trim(connection: Connection, table: Table, order: str, fingerprint: str, keep: int, newest: int) -> None:
    """Delete all rows of a fingerprint but the ``keep`` newest; before others go those newer than can be."""
    column = table.c[order]
    mine = select(table.c.id).where(table.c.fingerprint == fingerprint)
    old = list(connection.execute(mine.order_by(column > newest, column.desc()).offset(keep)).scalars())
    if old:
        connection.execute(delete(table).where(table.c.id.in_(old)))


def find_session(connection: Connection, session_id: bytes, now: int) -> Session | None:
    """Return a session that has not ended, nor was opened while the clock was ahead: that one would last too long."""
    row = connection.execute(_SESSION, {"id": session_id}).one_or_none()
    return Session(*row) if row is not None and now < row.expires <= now + SESSION_SECONDS + CLOCK_SKEW else None


def touch_cookies(database: Database, cookie_ids: Sequence[bytes], now: int) -> None:
    """Note that these cookies are in use."""
    with database.write(durable=False) as connection:
        connection.execute(update(cookies).where(cookies.c.id.in_(cookie_ids)).values(used=now))


def forget(database: Database, table: Table, before: int, limit: int = 1_000) -> int:
    """Delete at most ``limit`` sessions, cookies or nonces from before a time; return how many there were."""
    column = {sessions.name: "expires", cookies.name: "used", nonces.name: "time"}[table.name]
    keys = list(table.primary_key.columns)
    with database.write(durable=False) as connection:
        old = connection.execute(select(*keys).where(table.c[column] < before).limit(limit)).all()
        if old:
            condition = [key == bindparam(f"k{index}") for index, key in enumerate(keys)]
            rows = [{f"k{index}": value for index, value in enumerate(row)} for row in old]
            connection.execute(delete(table).where(*condition), rows)
    return len(old)
