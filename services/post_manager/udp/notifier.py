"""The UDP process: answers checks and gives tokens, one datagram for one datagram (protocol.md §6).

*Listens* on one UDP socket. *Holds* keys of cookies, read from the database. *Trusts* nothing that arrives. It does not
fork, has one thread, and keeps no state that it cannot afford to lose.

python -m services.post_manager.udp.notifier --config FILE [-v]
"""

import contextlib
import gc
import logging
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from services.post_manager import service
from services.post_manager.cookie_ids import CookieIds
from services.post_manager.counters import Counters
from services.post_manager.storage import sessions
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import StorageError
from services.post_manager.storage.keys import store_key
from services.post_manager.storage.watch import Watch
from services.post_manager.tokens import Tokens
from services.post_manager.udp.checks import Checks
from services.post_manager.udp.udp_socket import Arrived, UdpSocket
from stubmail import cli, log
from stubmail.datagram import QUESTION_SIZE

AT_ONCE = 64  # datagrams answered from one state of the database
NOTE_SECONDS = 60.0
NOTE_AT_ONCE = 500  # cookies in one transaction, which keeps checks waiting
RETRY_SECONDS = 1.0  # until a database that is gone is tried again

_STOP = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger("post_manager.udp")


class Notifier:
    """Answers what comes to one UDP socket until it is told to stop."""

    def __init__(
        self,
        listener: UdpSocket,
        database: Database,
        counters: Counters,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with the store's key from the database. Raises StorageError."""
        key = store_key(database)
        self._listener = listener
        self._database = database
        self._counters = counters
        self._clock = clock
        self._checks = Checks(counters, CookieIds(key), Tokens(key))
        self._stack = contextlib.ExitStack()
        self._watch: Watch | None = None
        self._try_again = 0.0
        self._stopped = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; for the main thread. SIGHUP means nothing: there is nothing to read again."""
        with self._signals() as wakeup:
            ready = select.poll()
            ready.register(self._listener, select.POLLIN)
            ready.register(wakeup, select.POLLIN)
            note = time.monotonic() + NOTE_SECONDS
            while not self._stopped:
                if not self.answer_waiting():
                    ready.poll(max(0.0, note - time.monotonic()) * 1000)
                if time.monotonic() >= note:
                    note = time.monotonic() + (1.0 if self._note_use() else NOTE_SECONDS)
        while self._note_use():
            pass
        self._close()
        log.event(_log, "ended", **self._counters.snapshot())

    def answer_waiting(self) -> int:
        """Answer the datagrams that have arrived, AT_ONCE of them at most; return how many there were."""
        # One octet more than a question has: what is longer is seen to be.
        arrived = self._listener.receive(AT_ONCE, QUESTION_SIZE + 1)
        if not arrived:
            return 0
        if self._watch is not None and self._database.outdated:
            self._close()
        try:
            answers = self._checks.answer(arrived, self._watching().look(), int(self._clock()))
        except StorageError as error:  # clients go on over HTTP (protocol.md §6.7)
            self._close()
            self._drop(arrived, error.text)
            return len(arrived)
        unsent = sum(not self._listener.send(answer, question) for answer, question in answers)
        if unsent:
            self._counters.add("checks unsent", unsent)
        return len(arrived)

    def _watching(self) -> Watch:
        if self._watch is None:
            if time.monotonic() < self._try_again:
                raise StorageError("the database was not there a moment ago")
            self._watch = Watch(self._stack.enter_context(self._database.watch()))
        return self._watch

    def _close(self) -> None:
        self._watch = None
        with contextlib.suppress(StorageError):
            self._stack.close()

    def _drop(self, arrived: Sequence[Arrived], why: str) -> None:
        """The database is gone: leave datagrams without an answer, and complain once a second at most."""
        self._counters.add("checks dropped", len(arrived))
        if time.monotonic() >= self._try_again:
            self._try_again = time.monotonic() + RETRY_SECONDS
            log.event(_log, "failed", level=logging.ERROR, error=why)

    def _note_use(self) -> bool:
        """Note that cookies were used; tell whether there are more of them."""
        used = list(self._checks.used)[:NOTE_AT_ONCE]
        if not used:
            return False
        try:
            sessions.touch_cookies(self._database, used, int(self._clock()))
        except StorageError as error:
            log.event(_log, "failed", level=logging.WARNING, error=error.text)
            return False
        for cookie_id in used:
            del self._checks.used[cookie_id]
        return bool(self._checks.used)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Have signals end the loop; yield the socket that becomes readable when one has come."""

        def stop(_number: int, _frame: object) -> None:
            self._stopped = True

        receiver, sender = socket.socketpair()
        with receiver, sender:
            sender.setblocking(False)
            before = {number: signal.signal(number, stop) for number in _STOP}
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
            descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            try:
                yield receiver
            finally:
                signal.set_wakeup_fd(descriptor)
                for number, handler in before.items():
                    signal.signal(number, handler)


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
        address, port = listener.name
        log.event(_log, "listening", address=f"{address}:{port}")
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # also while the database is waited for
        with contextlib.closing(service.await_database(section, 2)) as database:
            notifier = Notifier(listener, database, Counters(section.spool))
            gc.freeze()  # what is there now stays to the end
            notifier.run()


if __name__ == "__main__":
    main()
