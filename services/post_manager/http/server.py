"""The HTTP process: gunicorn's workers, each with its own connections to the database.

python -m services.post_manager.http.server --config FILE [-v]
"""

import logging
import math
import socket
import time
from pathlib import Path

import click

from services.post_manager import service
from services.post_manager.http.worker import Worker
from services.post_manager.policy import Accounts, load_accounts
from services.post_manager.settings import PostManager
from stubmail import cli, log, wsgi
from stubmail.settings import ConfigError
from stubmail.supervisor import die_with_parent
from stubmail.wsgi_batch import BatchWorker
from stubmail.wsgi_drain import Draining
from stubmail.wsgi_worker import PatientWorker

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
        self._worker: Worker | None = None

    def reload(self, _arbiter: object) -> None:
        """In the master, on SIGHUP: read the accounts file again; a broken one leaves things as they were."""
        try:
            self._accounts = load_accounts(self._section.accounts, self._section.terms)
        except ConfigError as error:
            log.event(_log, "not-reloaded", level=logging.ERROR, error=error.text)
            return
        log.event(_log, "reloaded", accounts=len(self._accounts))

    def make_app(self) -> wsgi.WsgiApp:
        """In a worker: begin with everything that it does, and return the application."""
        self._worker = Worker(self._section, self._host, self._accounts, self._admin, self.draining, self._started)
        return self._worker.start()

    def end(self, _arbiter: object, _worker: object) -> None:
        """In a worker that has served its last request."""
        if self._worker is not None:
            self._worker.stop()


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
    BatchWorker.awaits_bodies = not section.require_udp  # whose requests are refused, unread
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
        worker_class=BatchWorker,
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
