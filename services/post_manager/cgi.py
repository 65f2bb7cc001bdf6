"""The CGI entry (RFC 3875): one process for each request; the UDP process is started with the first one.

A web server runs ``post_manager.cgi``, or ``python -m services.post_manager.cgi``, as the owner of the spool
directory; docs/cgi.md has the lines for lighttpd and Apache. Whatever URL it maps to this program is the store's URL.
Rates, and how many of these run at once, are the web server's to limit. ``post_manager cgi-stop`` ends the UDP process.
"""

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.handlers import CGIHandler

from services.post_manager import directory, service
from services.post_manager.chores import Chores
from services.post_manager.counters import Counters
from services.post_manager.http.app import create_app
from services.post_manager.http.assembly import make_edge
from services.post_manager.http.unavailable import unavailable
from services.post_manager.policy import load_accounts
from services.post_manager.settings import PostManager
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import Conflict, StorageError
from services.post_manager.udp import daemon
from stubmail import log, settings
from stubmail.errors import Exit

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE = 65_536  # octets

_log = logging.getLogger("post_manager.cgi")


def main() -> None:
    """Answer the request that the environment and standard input hold.

    Arguments are not looked at: a web server may make them of the query (RFC 3875 §4.4).
    """
    log.setup()
    config = settings.default_path()
    try:
        section, host = service.read(config, sample=False)
        directory.open_directory(section.spool)
        accounts = load_accounts(section.accounts, section.terms)
        database = service.open_database(section, 1, prepare=True)
    except (Exit, OSError) as error:
        log.event(_log, "failed", level=logging.CRITICAL, error=error)
        _answer(unavailable() if isinstance(error, service.Away) else _not_set_up())
        sys.exit(error.status if isinstance(error, Exit) else os.EX_OSERR)
    with contextlib.closing(database):
        if database.read_only:
            service.say_damaged(section)
        served = _see_to_udp(section, config)
        app = create_app(make_edge(section, host, accounts, database, counters=Counters(section.spool)))

        def at_the_url(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            environ |= {"SCRIPT_NAME": "", "PATH_INFO": f"/{section.prefix}"}
            return app(environ, start_response)

        _answer(at_the_url)
        if not served:
            _do_chores(section, database)


def _see_to_udp(section: PostManager, config: Path) -> bool:
    """Have the UDP process run, or not, as the configuration says; return whether it does."""
    if section.udp:
        return daemon.ensure(section.spool, config)
    if (pid := daemon.stop(section.spool)) is not None:
        log.event(_log, "stopped", pid=pid, reason="udp is off")
    return False


class _Body(io.RawIOBase):
    """Standard input, never beyond the length that the web server gives (RFC 3875 §4.2)."""

    def __init__(self, length: str) -> None:
        self._left = int(length[:20]) if length.isascii() and length.isdigit() else 0

    def readable(self) -> bool:
        """For io.BufferedReader."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Wait for some octets; none at the end."""
        view = memoryview(buffer)
        data = os.read(sys.stdin.fileno(), min(len(view), self._left))
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _answer(app: Callable[..., Iterable[bytes]]) -> None:
    """Run one request; then nobody waits for this process any more, whatever it goes on to do."""
    body = io.BufferedReader(_Body(os.environ.get("CONTENT_LENGTH", "")), _PIECE)
    handler = CGIHandler()
    handler.stdin = body
    handler.run(app)
    with contextlib.suppress(OSError):  # the client has gone
        sys.stdout.flush()
        # Apache's mod_cgid has one socket for both directions: closed with octets unread, it takes back the answer.
        while body.read(_PIECE):
            pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _do_chores(section: PostManager, database: Database) -> None:
    try:
        Chores(database, time.time, service.tombstone(section)).run_due()
    except (StorageError, Conflict) as error:
        log.event(_log, "failed", level=logging.WARNING, error=error)


def _not_set_up() -> Callable[..., Iterable[bytes]]:
    """What a peer sees when the store is not set up; the reason is in the web server's error log."""
    return unavailable("this store is not set up; its web server's error log says why", 3600)


if __name__ == "__main__":
    main()
