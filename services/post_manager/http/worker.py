"""What one worker of the HTTP process serves: the store; or, while its database is away, the news that it is."""

import contextlib
import gc
import logging
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

from services.post_manager import directory, service
from services.post_manager.chores import Chores
from services.post_manager.counters import Counters
from services.post_manager.http.app import create_app
from services.post_manager.http.assembly import make_edge
from services.post_manager.http.unavailable import unavailable
from services.post_manager.http.unread import UnreadByStore
from services.post_manager.policy import Accounts
from services.post_manager.settings import PostManager
from services.post_manager.status import Status
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_path
from services.post_manager.storage.errors import StorageError
from stubmail import log
from stubmail.admin import Admin
from stubmail.errors import Exit
from stubmail.wsgi import WsgiApp
from stubmail.wsgi_drain import Draining
from stubmail.wsgi_worker import PatientWorker, allow

STOP_SECONDS = 5.0  # for the thread that does the chores

_log = logging.getLogger("post_manager")


class Worker:
    """One worker process, from its fork to its end. ``started``: when the service did, in Unix time."""

    def __init__(
        self,
        section: PostManager,
        host: str,
        accounts: Accounts,
        admin: socket.socket | None,
        draining: Draining,
        started: float,
    ) -> None:
        self._section = section
        self._host = host
        self._accounts = accounts
        self._counters = Counters(section.spool)
        self._database: Database | None = None
        self._chores: Chores | None = None
        self._problem = "the database is being opened"  # why there is none
        self._app: WsgiApp = unavailable(on_refusal=lambda: self._counters.add("refused unavailable"))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="chores", daemon=True)
        self._admin = self._make_admin(admin, draining, started) if admin is not None else None

    def start(self) -> WsgiApp:
        """Open the database, begin with the chores, and return the application.

        When the database is away, the application refuses until it is there; it is tried again all the time.
        """
        PatientWorker.unread = UnreadByStore(self._counters)
        self._open(prepare=False)
        if self._admin is not None:
            self._admin.start()  # only now: a worker that has just begun is no reason to call the store not ready
        self._thread.start()
        gc.collect()
        gc.freeze()  # what is there from the beginning stays to the end: no collection has to look at it
        return self._app if self._database is not None else self._current

    def stop(self) -> None:
        """End all that ``start`` began; the last request has been answered."""
        if self._admin is not None:
            self._admin.stop()
        self._stopped.set()
        if self._chores is not None:
            self._chores.stop()
        self._thread.join(STOP_SECONDS)
        if self._database is not None:
            self._database.close()
        log.event(_log, "ended", **self._counters.snapshot())

    def database(self) -> Database:
        """Return the database. Raises StorageError as long as it is away."""
        if self._database is None:
            raise StorageError(self._problem)
        return self._database

    def _current(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return self._app(environ, start_response)

    def _work(self) -> None:
        """In a thread: open the database if it is away, then do the chores."""
        while self._chores is None:
            if self._stopped.wait(service.RETRY_SECONDS):
                return
            self._open(prepare=True)
            if self._database is not None:
                service.say_found(self._section)
        if not self._stopped.is_set():
            self._chores.run_forever()

    def _open(self, *, prepare: bool) -> None:
        """Try once; ``prepare`` may take as long as another replica needs to bring the tables up to date."""
        section = self._section
        with contextlib.ExitStack() as stack:
            try:
                database = service.open_database(section, section.threads + 2, prepare=prepare)
                stack.callback(database.close)
                edge = make_edge(section, self._host, self._accounts, database, counters=self._counters, allow=allow)
            except Exit as error:
                self._problem = service.say_away(error, self._problem)
                return
            stack.pop_all()
        self._chores = Chores(database, time.time, service.tombstone(section), self._counters)
        self._app = create_app(edge)
        self._database = database

    def _make_admin(self, listener: socket.socket, draining: Draining, started: float) -> Admin:
        status = Status(
            database=self.database,
            counters=self._counters,
            incoming=self._section.spool / directory.INCOMING,
            reserve=self._section.reserve_bytes,
            file=sqlite_path(self._section.database_url),
            accounts=len(self._accounts),
            started=started,
            draining=lambda: bool(draining),
        )
        return Admin(listener, status.pages)
