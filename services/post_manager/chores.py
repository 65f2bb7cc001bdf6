"""What time does: posts expire, tombstones go, old sessions, cookies and nonces are forgotten."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import func, select, update

from services.post_manager.counters import Counters
from services.post_manager.steady import PROBATION, Steadiness
from services.post_manager.storage import outbox, sessions
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import Conflict, StorageError, StorageReadOnly
from services.post_manager.storage.schema import chores, cookies, nonces
from services.post_manager.storage.schema import sessions as session_table
from stubmail.log import event
from stubmail.request import CLOCK_SKEW, NONCE_LIFETIME

EVERY = 60  # seconds
WAKE = 10.0  # seconds; how often a process looks whether it is its turn

_log = logging.getLogger("post_manager.chores")


class Chores:
    """Does the chores that are due, whoever of all processes and replicas comes first."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        tombstone: int,
        counters: Counters | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._monotonic = monotonic
        self._steadiness: Steadiness | None = None
        self._trusted = True
        self._tombstone = tombstone
        self._counters = Counters() if counters is None else counters
        self._tasks: dict[str, Callable[[int], int]] = {
            "posts": self._expire,
            "tombstones": lambda now: outbox.forget(database, now),
            "sessions": lambda now: sessions.forget(database, session_table, now),
            "cookies": lambda now: sessions.forget(database, cookies, now - sessions.COOKIE_SECONDS),
            "nonces": lambda now: sessions.forget(database, nonces, now - NONCE_LIFETIME),
        }
        self._stop = threading.Event()

    def run_due(self) -> None:
        """Do each chore that nobody has done for a while, in small transactions. Raises StorageError."""
        self._run_due(int(self._clock()))

    def _run_due(self, now: int) -> None:
        for name, task in self._tasks.items():
            if self._take(name, now):
                with contextlib.suppress(StorageReadOnly):  # posts stay as they are while the database is damaged
                    while task(now) and not self._stop.is_set():
                        pass

    def look(self) -> None:
        """As ``run_due``, but not while the clock may be wrong: then it is logged. Raises StorageError."""
        if self._steadiness is None:
            with self._database.read() as connection:
                last = connection.execute(select(func.max(chores.c.due))).scalar_one() or 0
            self._steadiness = Steadiness(last)
        now = self._clock()
        steady = self._steadiness.look(now, self._monotonic())
        if steady != self._trusted and steady:
            event(_log, "clock-trusted")
        elif steady != self._trusted:
            event(_log, "clock-doubted", level=logging.WARNING, nothing_expires_for_seconds=PROBATION)
        self._trusted = steady
        if steady:
            self._run_due(int(now))

    def run_forever(self) -> None:
        """Look every few seconds whether something is due, until ``stop``; errors are logged, and tried again."""
        while not self._stop.wait(WAKE):
            try:
                self.look()
            except (StorageError, Conflict) as error:
                event(_log, "failed", level=logging.WARNING, error=error)

    def stop(self) -> None:
        """End ``run_forever`` soon."""
        self._stop.set()

    def _take(self, name: str, now: int) -> bool:
        with self._database.read() as connection:
            due = connection.execute(chores.select().where(chores.c.name == name)).one().due
        if now < due <= now + EVERY + CLOCK_SKEW:  # beyond that the clock was set back since
            return False
        with self._database.write(durable=False) as connection:
            claim = update(chores).where(chores.c.name == name, chores.c.due == due).values(due=now + EVERY)
            return connection.execute(claim).rowcount == 1

    def _expire(self, now: int) -> int:
        expired = outbox.expire(self._database, now, self._tombstone)
        for post_id in expired:
            self._counters.add("posts expired")
            event(_log, "expired", post_id.hex())
        return len(expired)
