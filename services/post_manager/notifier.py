"""The UDP process: answers checks, one datagram for one datagram (protocol.md §6). It does not fork and keeps no state.

python -m services.post_manager.notifier --config FILE [-v]
"""

import asyncio
import contextlib
import logging
import signal
import time
from pathlib import Path

import click

from services.post_manager import service
from services.post_manager.checks import Checks
from services.post_manager.counters import Counters
from services.post_manager.storage import sessions
from services.post_manager.storage.database import Database, Watch
from services.post_manager.storage.errors import StorageError
from services.post_manager.udp_socket import UdpSocket
from stubmail import cli, log
from stubmail.datagram import CHECK_SIZE

AT_ONCE = 256  # datagrams answered from one state of the database
FLUSH_SECONDS = 60.0

_log = logging.getLogger("post_manager.udp")


class Notifier:
    """Answers what comes to one UDP socket, as long as the event loop runs."""

    def __init__(self, listener: UdpSocket, database: Database) -> None:
        self._listener = listener
        self._database = database
        self._counters = Counters()
        self._checks = Checks(self._counters)
        self._stack = contextlib.ExitStack()
        self._watch: Watch | None = None
        self._complained = 0.0

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP means nothing here: there is nothing to read again."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, done.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        loop.add_reader(self._listener, self.answer_waiting)
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), FLUSH_SECONDS)
            self._note_use()
        loop.remove_reader(self._listener)
        self._close()
        log.event(_log, "ended", **self._counters.snapshot())

    def answer_waiting(self) -> None:
        """Answer the datagrams that have arrived, AT_ONCE of them at most."""
        try:
            with self._watching().look() as (connection, version):
                self._checks.new_state(version)
                now = int(time.time())
                for _ in range(AT_ONCE):
                    data, peer, ancillary = self._listener.receive(CHECK_SIZE + 1)
                    answer = self._checks.answer(data, connection, now)
                    if answer is not None and not self._listener.send(answer, peer, ancillary):
                        self._counters.add("checks unsent")
        except BlockingIOError:
            return
        except StorageError as error:  # clients go on over HTTP (protocol.md §6.5)
            self._close()
            self._drop(error.text)

    def _watching(self) -> Watch:
        if self._watch is None:
            self._watch = self._stack.enter_context(self._database.watch())
        return self._watch

    def _close(self) -> None:
        self._watch = None
        with contextlib.suppress(StorageError):
            self._stack.close()

    def _drop(self, why: str) -> None:
        """The database is gone: leave one datagram without an answer, and complain once a second at most."""
        with contextlib.suppress(OSError):
            self._listener.receive(CHECK_SIZE + 1)
            self._counters.add("checks dropped")
        if time.monotonic() - self._complained > 1:
            self._complained = time.monotonic()
            log.event(_log, "failed", level=logging.ERROR, error=why)

    def _note_use(self) -> None:
        used, self._checks.used = self._checks.used, {}
        if used:
            try:
                sessions.touch_cookies(self._database, list(used), int(time.time()))
            except StorageError as error:
                log.event(_log, "failed", level=logging.WARNING, error=error.text)


@click.command("post_manager.udp")
@cli.common_options
@cli.one_sentence
def main(config: Path, check: bool, verbose: bool) -> None:
    """Answer UDP checks until SIGTERM; post_manager starts this."""
    log.setup(verbose)
    section, _ = service.read(config)
    with contextlib.closing(UdpSocket(*cli.parse_listen(section.udp_listen))) as listener:
        if check:
            return
        with contextlib.closing(service.open_database(section, 2)) as database:
            address, port = listener.name
            log.event(_log, "listening", address=f"{address}:{port}")
            asyncio.run(Notifier(listener, database).run())


if __name__ == "__main__":
    main()
