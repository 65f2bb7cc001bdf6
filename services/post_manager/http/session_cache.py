"""Open sessions, kept in memory for a few seconds: they do not change, and every request needs one."""

import threading
from collections import OrderedDict

from services.post_manager.storage.database import Database
from services.post_manager.storage.sessions import Session, find_session

FRESH_SECONDS = 5  # for so long a session that gave way to newer ones may still be good in a process that knows it
MOST = 10_000


class SessionCache:
    """Finds sessions in a database, for all threads of a process. Who does not exist is looked up each time."""

    def __init__(self, database: Database, most: int = MOST) -> None:
        self._database = database
        self._most = most
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, tuple[Session, int]] = OrderedDict()  # when they were read

    def find(self, session_id: bytes, now: int) -> Session | None:
        """Return a session that has not ended. Raises StorageError."""
        with self._lock:
            session, read = self._found.get(session_id, (None, 0))
        if session is None or not 0 <= now - read < FRESH_SECONDS:
            session = self._read(session_id, now)
        return session if session is not None and session.expires > now else None

    def _read(self, session_id: bytes, now: int) -> Session | None:
        with self._database.read() as connection:
            session = find_session(connection, session_id, now)
        with self._lock:
            self._found.pop(session_id, None)
            if session is not None:
                self._found[session_id] = session, now
            while len(self._found) > self._most:
                self._found.popitem(last=False)  # the one that was read longest ago
        return session
