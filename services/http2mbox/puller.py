"""Rounds over all accounts and all their correspondents' domains at once; what one domain does delays no other.

The event loop asks by UDP and keeps the time; whatever blocks runs in worker threads.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from services.http2mbox import schedule
from services.http2mbox.account import Account
from services.http2mbox.contacts import Contacts
from services.http2mbox.counters import Counters
from services.http2mbox.incoming import Stopped
from services.http2mbox.outbox import OwnOutbox, Told
from services.http2mbox.pull import Limits
from services.http2mbox.report import Report
from services.http2mbox.schedule import Backoff
from services.http2mbox.state import AccountTrouble
from services.http2mbox.turns import Turns
from services.http2mbox.visits import Peer, Visits
from stubmail.errors import StubmailError
from stubmail.log import event

ABSENT_SECONDS = 30.0  # for which a domain without stub mail, whose mail comes the old way, is not asked about again

_log = logging.getLogger("http2mbox")


class Puller:
    """Visits every peer that is due, each on its own; ``report`` counts what came of it.

    ``workers`` talk to stores; ``lookups`` ask DNS and keyrings, so that stores which take their time keep no idle
    domain from being checked. ``outbox`` makes what watches an account's own posts; it does not block. All methods
    belong to the event loop.
    """

    def __init__(
        self,
        visits: Visits,
        limits: Limits,
        workers: Turns,
        counters: Counters,
        *,
        rng: random.Random,
        lookups: Turns | None = None,
        outbox: Callable[[Account], OwnOutbox] | None = None,
    ) -> None:
        self.report = Report()
        self._visits = visits
        self._limits = limits
        self._workers = workers
        self._lookups = lookups or workers
        self._counters = counters
        self._rng = rng
        self._make_outbox = outbox
        self._outboxes: dict[Account, OwnOutbox] = {}
        self._accounts: dict[Account, Backoff] = {}
        self._peers: dict[Account, dict[str, Peer]] = {}
        self._preparing: set[Account] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def set_accounts(self, accounts: Iterable[Account]) -> None:
        """Deal with these accounts from now on."""
        self._accounts = {account: self._accounts.get(account) or Backoff(self._rng) for account in accounts}
        for account in self._peers.keys() - self._accounts.keys():
            del self._peers[account]
        if make := self._make_outbox:
            self._outboxes = {account: self._outboxes.get(account) or make(account) for account in self._accounts}

    def forgive(self) -> None:
        """Try everybody again at once, whatever has failed before."""
        for backoff in self._accounts.values():
            backoff.succeeded()
        for peers in self._peers.values():
            for peer in peers.values():
                peer.backoff.succeeded()
                peer.silence.succeeded()
                peer.rests_until = 0.0
        for outbox in self._outboxes.values():
            outbox.backoff.succeeded()

    def start_round(self, *, full: bool = False) -> None:
        """Start visiting everybody who is due and not being visited; ``full``: whatever UDP would say."""
        now = time.monotonic()
        self._counters.add("rounds")
        for account, backoff in self._accounts.items():
            if account not in self._preparing and backoff.ready(now):
                self._preparing.add(account)
                self._start(self._round_of(account, full), str(account.address))
                outbox = self._outboxes.get(account)
                if outbox and not outbox.busy and outbox.backoff.ready(now) and (full or outbox.is_due()):
                    outbox.busy = True
                    self._start(self._look_into(outbox, full), f"outbox of {account.address}")

    def progress(self) -> tuple[int, int, int]:
        """Return how many visits are under way, how many posts were delivered, and how many were to be, until now."""
        delivered, waiting = self._visits.under_way()
        return len(self._tasks), self.report.delivered + delivered, self.report.waiting + waiting

    async def finish(self) -> None:
        """Return when nobody is being visited any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Ask the worker threads to come to an end; what they have begun to deliver is completed."""
        self._visits.stop()

    async def _round_of(self, account: Account, full: bool) -> None:
        try:
            contacts, decided = await self._lookups.run(self._prepare, account)
        except (StubmailError, OSError) as error:
            self._failed("account", str(account.address), self._accounts.get(account), error)
            return
        finally:
            self._preparing.discard(account)
        peers = self._peers.setdefault(account, {})
        for domain in contacts.domains.keys() - peers.keys():
            silence = Backoff(self._rng, schedule.FIRST_SILENCE, schedule.LONGEST_SILENCE)
            peers[domain] = Peer(account, domain, Backoff(self._rng), silence)
        for domain in peers.keys() - contacts.domains.keys():
            del peers[domain]
        now = time.monotonic()
        for peer in peers.values():
            if not peer.busy and peer.backoff.ready(now) and now >= peer.rests_until:
                peer.busy = True
                self._start(self._visit(peer, contacts, full or peer.domain in decided), peer.domain)

    def _prepare(self, account: Account) -> tuple[Contacts, set[str]]:
        """Return the correspondents, and those of their domains that must be asked since a person decided so.

        Runs in a worker thread, as the keyring may have to ask gpg. Raises StubmailError, OSError.
        """
        if not self._limits.dry_run:
            account.jar.save()
        account.jar.refresh()
        contacts = account.contacts()
        if not self._limits.dry_run and contacts.domains.keys() != self._peers.get(account, {}).keys():
            account.state.keep_domains(contacts.domains)
        return contacts, account.state.decided_domains()

    async def _visit(self, peer: Peer, contacts: Contacts, full: bool) -> None:
        try:
            offer = await self._lookups.run(self._visits.discover, peer.domain)
            if offer is None:
                peer.rests_until = time.monotonic() + ABSENT_SECONDS
                return
            self.report.domains.add(peer.domain)
            if full or await self._visits.has_news(peer, offer, contacts):
                tally, error = await self._workers.run(
                    self._visits.pull, peer, contacts, offer.stores, slow=peer.is_slow
                )
                self.report.add(tally)
                if error is not None:
                    raise error
            else:
                self.report.checks += 1
            peer.backoff.succeeded()
        except Stopped:
            return
        except AccountTrouble as error:
            self._failed("account", str(peer.account.address), self._accounts.get(peer.account), error)
        except StubmailError as error:
            self._failed("domain", peer.domain, peer.backoff, error)
        except BaseException:
            peer.backoff.failed(time.monotonic())
            raise
        finally:
            peer.busy = False

    async def _look_into(self, outbox: OwnOutbox, full: bool) -> None:
        account, told = outbox.account, Told()
        try:
            await self._workers.run(lambda: outbox.look(told, full=full, stopping=lambda: self._visits.stopping))
            outbox.backoff.succeeded()
        except Stopped:
            return
        except AccountTrouble as error:
            self._failed("account", str(account.address), self._accounts.get(account), error)
        except StubmailError as error:
            self._failed("outbox", f"outbox of {account.address}", outbox.backoff, error)
        except BaseException:
            outbox.backoff.failed(time.monotonic())
            raise
        finally:
            outbox.busy = False
            self.report.add_notices(told)
            self._counters.add("notices own", told.delivered)

    def _failed(self, side: str, name: str, backoff: Backoff | None, error: StubmailError | OSError) -> None:
        delay = backoff.failed(time.monotonic()) if backoff else 0.0
        self.report.failed.add(name)
        self._counters.add(f"failures {side}")
        text = error.text if isinstance(error, StubmailError) else str(error)
        event(_log, "failed", name, level=logging.WARNING, error=text, retry_seconds=round(delay, 1))

    def _start(self, visit: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(visit, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.report.failed.add(task.get_name())
            _log.error("%s failed", task.get_name(), exc_info=error)
