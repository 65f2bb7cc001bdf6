"""The store's own key: made at its first use, kept in the database, the same for all processes and replicas."""

import secrets

from sqlalchemy import Connection, insert, select

from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import Conflict, StorageError
from services.post_manager.storage.schema import keys

KEY_SIZE = 32  # octets
_STORE = "store"

_FIND = select(keys.c.value).where(keys.c.name == _STORE)


def store_key(database: Database) -> bytes:
    """Return the store's key, 32 octets, which is made when there is none yet. Raises StorageError.

    It is permanent: whoever learns it can make up what the store gives to anybody who asks, tokens and the ids of
    cookies, but neither sessions nor the keys of cookies. When the database is damaged so that it can neither be read
    nor made, it is this process's own.
    """
    made = secrets.token_bytes(KEY_SIZE)
    try:
        return _found_or(made, database)
    except StorageError:
        if database.read_only:
            return made
        raise


def _found_or(made: bytes, database: Database) -> bytes:
    with database.read() as connection:
        found = _find(connection)
    if found is not None:
        return found
    try:
        with database.write() as connection:
            connection.execute(insert(keys), {"name": _STORE, "value": made})
        return made
    except Conflict:  # another process was faster
        with database.read() as connection:
            found = _find(connection)
        if found is None:
            raise
        return found


def _find(connection: Connection) -> bytes | None:
    value = connection.execute(_FIND).scalar_one_or_none()
    return None if value is None else bytes(value)
