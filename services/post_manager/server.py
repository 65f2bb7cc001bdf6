"""The HTTP process: gunicorn's workers, each with its own connections to the database.

python -m services.post_manager.server --config FILE [-v]
"""

import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

from services.post_manager import directory, service
from services.post_manager.app import create_app
from services.post_manager.assembly import make_edge
from services.post_manager.chores import Chores
from services.post_manager.counters import Counters
from services.post_manager.policy import Accounts, load_accounts
from services.post_manager.settings import PostManager
from services.post_manager.status import Status
from services.post_manager.storage.database import Database
from stubmail import cli, log, wsgi
from stubmail.admin import Admin
from stubmail.settings import ConfigError
from stubmail.supervisor import die_with_parent
from stubmail.wsgi_drain import Draining
from stubmail.wsgi_worker import PatientWorker, allow

_log = logging.getLogger("post_manager")
_admin_log = logging.getLogger("post_manager.admin")


class Server:
    """What gunicorn's master keeps, and what a worker makes of it after the fork."""

    def __init__(self, section: PostManager, host: str, accounts: Accounts, admin: socket.socket | None) -> None:
        self._section = section
        self._admin = admin
        self._started = time.time()
        self.draining = Draining()
        self._host = host
        self._accounts = accounts
        self._stop_worker: Callable[[], None] = lambda: None

    def reload(self, _arbiter: object) -> None:
        """In the master, on SIGHUP: read the accounts file again; a broken one leaves things as they were."""
        try:
            self._accounts = load_accounts(self._section.accounts, self._section.terms)
        except ConfigError as error:
            log.event(_log, "not-reloaded", level=logging.ERROR, error=error.text)
            return
        log.event(_log, "reloaded", accounts=len(self._accounts))

    def make_app(self) -> wsgi.WsgiApp:
        """In a worker: open the database, begin with the chores, and return the application."""
        section = self._section
        database = service.open_database(section, section.threads + 2)
        counters = Counters(section.spool)
        chores = Chores(database, time.time, service.tombstone(section), counters)
        thread = threading.Thread(target=chores.run_forever, name="chores", daemon=True)
        thread.start()
        admin = self._serve_admin(database, counters)

        def stop() -> None:
            if admin is not None:
                admin.stop()
            chores.stop()
            thread.join(5)
            database.close()
            log.event(_log, "ended", **counters.snapshot())

        self._stop_worker = stop
        return create_app(make_edge(section, self._host, self._accounts, database, counters=counters, allow=allow))

    def _serve_admin(self, database: Database, counters: Counters) -> Admin | None:
        if self._admin is None:
            return None
        status = Status(
            database=database,
            counters=counters,
            incoming=self._section.spool / directory.INCOMING,
            reserve=self._section.reserve_bytes,
            accounts=len(self._accounts),
            started=self._started,
            draining=lambda: bool(self.draining),
        )
        admin = Admin(self._admin, status.pages)
        admin.start()
        return admin

    def end(self, _arbiter: object, _worker: object) -> None:
        """In a worker that has served its last request."""
        self._stop_worker()


@click.command("post_manager.http")
@cli.common_options
@cli.one_sentence
def main(config: Path, check: bool, verbose: bool) -> None:
    """Answer HTTP until SIGTERM; post_manager starts this."""
    log.setup(verbose)
    section, host = service.read(config)
    accounts = load_accounts(section.accounts, section.terms)
    listener = wsgi.bind(*cli.parse_listen(section.listen))
    admin = wsgi.bind(*cli.parse_listen(section.admin_listen)) if section.admin_listen else None
    if check:
        return
    server = Server(section, host, accounts, admin)
    address, port = listener.getsockname()[:2]
    PatientWorker.patience = section.timeout_seconds
    log.event(_log, "listening", address=f"{address}:{port}", host=host, prefix=section.prefix)
    if admin is not None:
        address, port = admin.getsockname()[:2]
        log.event(_admin_log, "listening", address=f"{address}:{port}")
    wsgi.serve(
        server.make_app,
        listener,
        draining=server.draining,
        notice=section.drain_notice_seconds,
        graceful_timeout=max(1, math.ceil(section.drain_seconds)),
        worker_class=PatientWorker,
        workers=section.workers,
        threads=section.threads,
        keepalive=15,
        limit_request_line=1024,
        limit_request_fields=50,
        limit_request_field_size=4096,
        forwarded_allow_ips="",
        on_reload=server.reload,
        post_fork=lambda arbiter, worker: die_with_parent(),
        worker_exit=server.end,
    )


if __name__ == "__main__":
    main()
