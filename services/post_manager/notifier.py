"""The UDP process: answers checks, one datagram for one datagram (protocol.md §6). It does not fork and keeps no state.

python -m services.post_manager.notifier --config FILE [-v]
"""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from pathlib import Path

import click

from services.post_manager import service
from services.post_manager.checks import Checks
from services.post_manager.counters import Counters
from services.post_manager.storage import sessions
from services.post_manager.storage.database import Database, StorageError, Watch
from stubmail import cli, log
from stubmail.datagram import CHECK_SIZE

AT_ONCE = 256  # datagrams answered from one state of the database
RECEIVE_BUFFER = 4 * 2**20  # octets; the kernel may give less
FLUSH_SECONDS = 60.0

_log = logging.getLogger("post_manager.udp")


class Notifier:
    """Answers what comes to one UDP socket, as long as the event loop runs."""

    def __init__(self, listener: socket.socket, database: Database) -> None:
        self._listener = listener
        self._database = database
        self._counters = Counters()
        self._checks = Checks(self._counters)
        self._stack = contextlib.ExitStack()
        self._watch: Watch | None = None

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
        log.event(_log, "counted", **{name.replace(" ", "_"): n for name, n in self._counters.snapshot().items()})

    def answer_waiting(self) -> None:
        """Answer the datagrams that have arrived, AT_ONCE of them at most."""
        try:
            with self._watching().look() as (connection, version):
                self._checks.new_state(version)
                now = int(time.time())
                for _ in range(AT_ONCE):
                    data, peer = self._listener.recvfrom(CHECK_SIZE + 1)
                    answer = self._checks.answer(data, connection, now)
                    if answer is not None:
                        self._send(answer, peer)
        except BlockingIOError:
            return
        except StorageError as error:  # clients go on over HTTP (protocol.md §6.5)
            self._close()
            self._drop_one()
            log.event(_log, "failed", level=logging.ERROR, error=error.text)

    def _send(self, answer: bytes, peer: object) -> None:
        try:
            self._listener.sendto(answer, peer)  # type: ignore[call-overload]  # the address is as it came
        except OSError:  # nobody there, or no room: it is a datagram
            self._counters.add("checks unsent")

    def _watching(self) -> Watch:
        if self._watch is None:
            self._watch = self._stack.enter_context(self._database.watch())
        return self._watch

    def _close(self) -> None:
        self._watch = None
        with contextlib.suppress(StorageError):
            self._stack.close()

    def _drop_one(self) -> None:
        """While the database is gone, read and log one datagram at a time."""
        with contextlib.suppress(OSError):
            self._listener.recvfrom(CHECK_SIZE + 1)
        self._counters.add("checks dropped")

    def _note_use(self) -> None:
        used, self._checks.used = self._checks.used, {}
        if used:
            try:
                sessions.touch_cookies(self._database, list(used), int(time.time()))
            except StorageError as error:
                log.event(_log, "failed", level=logging.WARNING, error=error.text)


def bind(address: str, port: int) -> socket.socket:
    """Return a UDP socket. Raises Exit when it cannot be bound."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise cli.listening_error(error, address, port) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.setblocking(False)
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise cli.listening_error(error, address, port) from error
    return listener


@click.command("post_manager.udp")
@cli.common_options
@cli.one_sentence
def main(config: Path, check: bool, verbose: bool) -> None:
    """Answer UDP checks until SIGTERM; post_manager starts this."""
    log.setup(verbose)
    section, _ = service.read(config)
    with contextlib.closing(bind(*cli.parse_listen(section.udp_listen))) as listener:
        if check:
            return
        with contextlib.closing(service.open_database(section, 2)) as database:
            address, port = listener.getsockname()[:2]
            log.event(_log, "listening", address=f"{address}:{port}")
            asyncio.run(Notifier(listener, database).run())


if __name__ == "__main__":
    main()
