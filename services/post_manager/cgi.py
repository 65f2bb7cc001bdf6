"""The CGI entry (RFC 3875): one request for each process; the UDP process is started with the first one.

A web server runs ``post_manager.cgi``, or ``python -m services.post_manager.cgi``, as the owner of the spool
directory. Whatever URL it maps to this program is the store's URL. Rates are the web server's to limit.
"""

import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from wsgiref.handlers import CGIHandler

from services.post_manager import directory, service
from services.post_manager.app import create_app
from services.post_manager.chores import Chores
from services.post_manager.counters import Counters
from services.post_manager.policy import load_accounts
from services.post_manager.settings import PostManager
from services.post_manager.storage.errors import Conflict, StorageError
from stubmail import log, settings
from stubmail.errors import Exit
from stubmail.request import Refusal

LOCK = "udp.lock"  # in the spool directory; whoever serves UDP for a CGI program holds it
LOG = "udp.log"

_log = logging.getLogger("post_manager.cgi")


def main() -> None:
    """Answer the request that the environment and standard input hold."""
    log.setup()
    config = settings.default_path()
    try:
        section, host = service.read(config, sample=False)
        directory.open_directory(section.spool)
        accounts = load_accounts(section.accounts, section.terms)
        database = service.open_database(section, 1, prepare=True)
    except (Exit, OSError) as error:
        log.event(_log, "failed", level=logging.CRITICAL, error=error)
        CGIHandler().run(_unavailable)
        sys.exit(error.status if isinstance(error, Exit) else os.EX_OSERR)
    if section.udp:
        start_notifier(section, config)
    edge = service.make_edge(section, host, accounts, database, counters=Counters())
    app = create_app(edge)

    def at_the_url(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ |= {"SCRIPT_NAME": "", "PATH_INFO": f"/{section.prefix}"}
        return app(environ, start_response)

    try:
        CGIHandler().run(at_the_url)
        sys.stdout.flush()
        Chores(database, time.time, service.tombstone(section)).run_due()
    except (StorageError, Conflict) as error:
        log.event(_log, "failed", level=logging.WARNING, error=error)
    finally:
        database.close()


def start_notifier(section: PostManager, config: Path) -> None:
    """Start the UDP process unless it runs; of any number of calls at once, one does.

    The process inherits the lock, open file description and all: it is free again when the process ends.
    """
    descriptor = os.open(section.spool / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return
    command = [sys.executable, "-m", "services.post_manager.notifier", "--config", str(config.absolute())]
    try:
        with (section.spool / LOG).open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(descriptor,),
            )
        log.event(_log, "started", pid=process.pid)
        process.returncode = 0  # it outlives this process; nobody waits for it here
    except OSError as error:  # clients go on over HTTP (protocol.md §6.5)
        log.event(_log, "failed", level=logging.ERROR, error=error.strerror)
    finally:
        os.close(descriptor)


def _unavailable(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """What a peer sees when the store is not set up; the reason is in the web server's error log."""
    refusal = Refusal("unavailable", "this store is not set up; its web server's error log says why", 3600)
    text = f'{{"error": "{refusal.code}", "message": "{refusal.message}", "time": {int(time.time())}}}'
    headers = [("Content-Type", "application/json"), ("Retry-After", str(refusal.retry_after))]
    start_response(f"{refusal.status} Service Unavailable", headers)
    return [text.encode()]


if __name__ == "__main__":
    main()
