"""The HTTP process: gunicorn's workers, each with its own connections to the database.

python -m services.post_manager.server --config FILE [-v]
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

from services.post_manager import service
from services.post_manager.app import create_app
from services.post_manager.chores import Chores
from services.post_manager.counters import Counters
from services.post_manager.policy import Accounts, load_accounts
from services.post_manager.settings import PostManager
from stubmail import cli, log, wsgi
from stubmail.settings import ConfigError
from stubmail.supervisor import die_with_parent
from stubmail.wsgi_worker import PatientWorker, allow

_log = logging.getLogger("post_manager")


class Server:
    """What gunicorn's master keeps, and what a worker makes of it after the fork."""

    def __init__(self, section: PostManager, host: str, accounts: Accounts) -> None:
        self._section = section
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
        counters = Counters()
        chores = Chores(database, time.time, service.tombstone(section))
        thread = threading.Thread(target=chores.run_forever, name="chores", daemon=True)
        thread.start()

        def stop() -> None:
            chores.stop()
            thread.join(5)
            database.close()
            log.event(_log, "ended", **counters.snapshot())

        self._stop_worker = stop
        return create_app(
            service.make_edge(section, self._host, self._accounts, database, counters=counters, allow=allow)
        )

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
    server = Server(section, host, load_accounts(section.accounts, section.terms))
    listener = wsgi.bind(*cli.parse_listen(section.listen))
    if check:
        listener.close()
        return
    address, port = listener.getsockname()[:2]
    PatientWorker.patience = section.timeout_seconds
    log.event(_log, "listening", address=f"{address}:{port}", host=host, prefix=section.prefix)
    wsgi.serve(
        server.make_app,
        listener,
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
