"""The puller's process: one round or one every so often, signals, and a prompt end."""

import asyncio
import contextlib
import logging
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.http2mbox import schedule
from services.http2mbox.account import Account
from services.http2mbox.accounts import Accounts
from services.http2mbox.checks import Checks
from services.http2mbox.counters import Counters
from services.http2mbox.outbox import OwnOutbox
from services.http2mbox.progress import SECONDS as PROGRESS_SECONDS
from services.http2mbox.progress import Progress
from services.http2mbox.pull import Limits
from services.http2mbox.puller import Puller
from services.http2mbox.schedule import Backoff
from services.http2mbox.settings import DRAIN_SECONDS, Http2mbox
from services.http2mbox.turns import Turns
from services.http2mbox.visits import Visits
from stubmail.discovery import Resolver, Store, configured_store
from stubmail.errors import Exit
from stubmail.http_client import HttpClient
from stubmail.log import event
from stubmail.sent import SentRecords
from stubmail.store_client import Session, StoreClient

if TYPE_CHECKING:
    from services.http2mbox.status import Status

HEARTBEAT_SECONDS = 20.0  # the least often that a daemon shows that it is alive

_log = logging.getLogger("http2mbox")


class CookieKeeper(StoreClient):
    """A client that puts the cookie of every session it opens into the account's jar."""

    def __init__(self, http: HttpClient, account: Account, store: Store) -> None:
        super().__init__(http, store, account.identity, account.address)
        self._jar = account.jar

    def open(self) -> Session:
        """Open a new session (protocol.md §5.1)."""
        session = super().open()
        self._jar.put(self.store_record.url, session.cookie, session.cookie_key)
        return session


class Process:
    """One run over accounts that are open; ``puller.report`` counts what comes of it.

    Afterwards, threads may be left that wait for the network.
    """

    def __init__(
        self, options: Http2mbox, resolver: Resolver, accounts: Accounts, limits: Limits, counters: Counters
    ) -> None:
        http = HttpClient(resolver)
        self._heartbeat: Path = options.state / "heartbeat"
        self._accounts = accounts
        self._rng = random.SystemRandom()
        self._checks = Checks()
        self._workers = Turns(options.workers)
        self._lookups = Turns(options.workers)
        self._woken = asyncio.Event()
        self._stopped = False
        self._reload = False
        self._counters = counters
        visits = Visits(
            resolver,
            self._checks,
            lambda account, store: CookieKeeper(http, account, store),
            limits,
            counters,
            rng=self._rng,
        )
        outboxes = self._outboxes(options, resolver, http, limits)
        self.puller = Puller(
            visits, limits, self._workers, counters, rng=self._rng, lookups=self._lookups, outbox=outboxes
        )

    def _outboxes(
        self, options: Http2mbox, resolver: Resolver, http: HttpClient, limits: Limits
    ) -> Callable[[Account], OwnOutbox]:
        """Return what makes an account's outbox. Raises ConfigError."""
        fixed = configured_store(options.store, "http2mbox")
        if fixed is not None:
            http = HttpClient(resolver.for_configured_hosts())

        def stores(account: Account) -> Sequence[Store]:
            offer = None if fixed else resolver.discover(account.address.domain)
            return (fixed,) if fixed else offer.stores if offer else ()

        def make(account: Account) -> OwnOutbox:
            return OwnOutbox(
                account,
                lambda: stores(account),
                lambda store: StoreClient(http, store, account.identity, account.address),
                SentRecords(options.sent, account.address),
                limits,
                rng=self._rng,
            )

        return make

    async def once(self, *, full: bool, progress: Progress | None = None) -> None:
        """Visit everybody once; SIGTERM and SIGINT end it early."""
        await self._begin()
        self.puller.start_round(full=full)
        finished = asyncio.create_task(self.puller.finish())
        finished.add_done_callback(lambda _: self._woken.set())
        while not finished.done() and not self._stopped:
            await self._pause(PROGRESS_SECONDS if progress else HEARTBEAT_SECONDS)
            if progress:
                progress.draw(*self.puller.progress())
        if progress:
            progress.clear()
        await self._end(finished)

    async def keep_on(self, interval: float, *, full: bool, listener: socket.socket | None = None) -> None:
        """Visit everybody every ``interval`` seconds until SIGTERM or SIGINT; SIGHUP reads users and keys again.

        ``listener`` is for the pages about its health.
        """
        from services.http2mbox.status import Status  # a single round does without the pages
        from stubmail.admin import Admin

        await self._begin()
        status = Status(self._accounts, self._counters, interval, lambda: self._stopped)
        admin = Admin(listener, status.pages) if listener else None
        if admin:
            admin.start()
        try:
            await self._rounds(interval, full, status)
            await self._end(asyncio.create_task(self.puller.finish()))
        finally:
            if admin:
                await asyncio.get_running_loop().run_in_executor(None, admin.stop)

    async def _rounds(self, interval: float, full: bool, status: "Status") -> None:
        reopening = Backoff(self._rng)
        while not self._stopped:
            if self._reload:
                self.puller.forgive()
            if self._reload or (self._accounts.failures and reopening.ready(time.monotonic())):
                self._reload = False
                await self._reopen()
                if self._accounts.failures:
                    reopening.failed(time.monotonic())
                else:
                    reopening.succeeded()
            self._beat()
            status.began = time.time()
            self.puller.start_round(full=full)
            full = False
            await self._pause(schedule.next_round(interval, self._rng))

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # a full or read-only disk shows elsewhere
            self._heartbeat.touch()

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        await self._checks.open()
        self.puller.set_accounts(self._accounts)

    def _on_stop(self) -> None:
        self._stopped = True
        self._woken.set()

    def _on_reload(self) -> None:
        self._reload = True
        self._woken.set()

    async def _reopen(self) -> None:
        try:
            await self._workers.run(self._accounts.reload)
            self._accounts.log_failures()
        except Exit as error:
            event(_log, "not-reloaded", level=logging.ERROR, error=error.text)  # the accounts stay as they are
        self.puller.set_accounts(self._accounts)

    async def _pause(self, seconds: float) -> None:
        """Wait until it is time for the next round, or a signal has come."""
        end = time.monotonic() + seconds
        while not self._woken.is_set() and (left := end - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, HEARTBEAT_SECONDS)):
                    await self._woken.wait()
            except TimeoutError:
                self._beat()
        self._woken.clear()

    async def _end(self, finished: asyncio.Task[None]) -> None:
        self.puller.stop()
        await asyncio.wait((finished,), timeout=DRAIN_SECONDS)
        abandoned = not finished.done()
        finished.cancel()
        for workers in (self._workers, self._lookups):
            workers.shutdown(wait=not abandoned)
        self._checks.close()
