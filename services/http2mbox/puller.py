"""Rounds over all accounts and all their correspondents' domains at once; what one domain does delays no other.

The event loop asks by UDP and keeps the time; whatever blocks (DNS, HTTP, decryption, disk) runs in worker threads.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, TypeVarTuple, Unpack

from services.http2mbox import schedule
from services.http2mbox.account import Account
from services.http2mbox.checks import Place
from services.http2mbox.contacts import Contacts
from services.http2mbox.incoming import Stopped
from services.http2mbox.outbox import OwnOutbox, Told
from services.http2mbox.pull import Client, Limits, Pull, Tally
from services.http2mbox.report import Report
from services.http2mbox.schedule import Backoff
from services.http2mbox.state import AccountTrouble
from services.http2mbox.workers import MemoryGate, Workers
from stubmail.cookies import Cookie, Seen
from stubmail.datagram import Unknown, Waiting
from stubmail.discovery import Store, StubDomain
from stubmail.errors import StubmailError, TemporaryError
from stubmail.log import event

ABSENT_SECONDS = 30.0  # for which a domain without stub mail, whose mail comes the old way, is not asked about again
MEMORY = 96 * 2**20  # octets for decryption, all threads together; one post of any size is always let in

Ts = TypeVarTuple("Ts")
T = TypeVar("T")
_log = logging.getLogger("http2mbox")


class Discovery(Protocol):
    """The part of a Resolver that is used here."""

    def discover(self, domain: str) -> StubDomain | None: ...

    def addresses(self, host: str) -> list[str]: ...


class Checker(Protocol):
    """Who asks by UDP."""

    async def ask(self, place: Place, cookie: Cookie) -> Waiting | Unknown | None: ...


@dataclass(eq=False)
class Peer:
    """One domain of one account's correspondents, and how dealing with it has gone so far."""

    account: Account
    domain: str
    backoff: Backoff
    silence: Backoff  # of its UDP checks
    store: Store | None = None
    client: Client | None = None
    busy: bool = False
    rests_until: float = 0.0  # monotonic time; while its domain is known to have no stub mail


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a domain's stores are, in the order to try, and where to check by UDP, if anywhere."""

    stores: tuple[Store, ...]
    place: Place | None


class Puller:
    """Visits every peer that is due, each on its own; ``report`` counts what came of it.

    ``connect`` makes the client for an account and a store, ``outbox`` what watches an account's own posts; neither
    blocks. All methods belong to the event loop.
    """

    def __init__(
        self,
        discovery: Discovery,
        checker: Checker,
        connect: Callable[[Account, Store], Client],
        limits: Limits,
        workers: Workers,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
        outbox: Callable[[Account], OwnOutbox] | None = None,
    ) -> None:
        self.report = Report()
        self._discovery = discovery
        self._checker = checker
        self._connect = connect
        self._limits = limits
        self._workers = workers
        self._rng = rng
        self._clock = clock
        self._make_outbox = outbox
        self._outboxes: dict[Account, OwnOutbox] = {}
        self._gate = MemoryGate(MEMORY)
        self._stopping = threading.Event()
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
        for account, backoff in self._accounts.items():
            if account not in self._preparing and backoff.ready(now):
                self._preparing.add(account)
                self._start(self._round_of(account, full), str(account.address))
                outbox = self._outboxes.get(account)
                if outbox and not outbox.busy and outbox.backoff.ready(now) and (full or outbox.is_due()):
                    outbox.busy = True
                    self._start(self._look_into(outbox, full), f"outbox of {account.address}")

    async def finish(self) -> None:
        """Return when nobody is being visited any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Ask the worker threads to come to an end; what they have begun to deliver is completed."""
        self._stopping.set()

    async def _round_of(self, account: Account, full: bool) -> None:
        try:
            contacts, decided = await self._blocking(self._prepare, account)
        except (StubmailError, OSError) as error:
            self._failed(str(account.address), self._accounts.get(account), error)
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
            offer = await self._blocking(self._discover, peer.domain)
            if offer is None:
                peer.rests_until = time.monotonic() + ABSENT_SECONDS
                return
            self.report.domains.add(peer.domain)
            stores = _in_order(offer.stores, peer.store)
            if full or await self._has_news(peer, stores[0], offer.place, contacts):
                tally, error = await self._blocking(self._pull, peer, contacts, stores)
                self.report.add(tally)
                if error is not None:
                    raise error
            peer.backoff.succeeded()
        except Stopped:
            return
        except AccountTrouble as error:
            self._failed(str(peer.account.address), self._accounts.get(peer.account), error)
        except StubmailError as error:
            self._failed(peer.domain, peer.backoff, error)
        except BaseException:
            peer.backoff.failed(time.monotonic())
            raise
        finally:
            peer.busy = False

    async def _look_into(self, outbox: OwnOutbox, full: bool) -> None:
        account, told = outbox.account, Told()
        try:
            await self._blocking(lambda: outbox.look(told, full=full, stopping=self._stopping.is_set))
            outbox.backoff.succeeded()
        except Stopped:
            return
        except AccountTrouble as error:
            self._failed(str(account.address), self._accounts.get(account), error)
        except StubmailError as error:
            self._failed(f"outbox of {account.address}", outbox.backoff, error)
        except BaseException:
            outbox.backoff.failed(time.monotonic())
            raise
        finally:
            outbox.busy = False
            self.report.add_notices(told)

    async def _has_news(self, peer: Peer, store: Store, place: Place | None, contacts: Contacts) -> bool:
        """Ask by UDP whether a listing is needed (protocol.md §6); True whenever that cannot be known."""
        cookie = peer.account.jar.get(store.url)
        if cookie is None:
            peer.client = None  # no cookie without a new session
            return True
        digest, now = contacts.domains[peer.domain].digest, self._clock()
        seen = cookie.seen
        if seen is None or not schedule.worth_checking(seen, digest, now, self._limits.full_check):
            return True
        if place is None or not peer.silence.ready(time.monotonic()):
            return True
        answer = await self._checker.ask(place, cookie)
        if answer is None:
            peer.silence.failed(time.monotonic())
        else:
            peer.silence.succeeded()
        if isinstance(answer, Unknown):
            peer.client = None
        news = schedule.is_news(seen, answer)
        self.report.checks += not news
        return news

    def _discover(self, domain: str) -> Offer | None:
        """Runs in a worker thread. Raises StubmailError when DNS fails."""
        found = self._discovery.discover(domain)
        if found is None:
            return None
        place: Place | None = None
        if found.checks:
            try:
                place = self._discovery.addresses(found.checks[0].host)[0], found.checks[0].port
            except TemporaryError:
                place = None  # the store may still answer over HTTP
        return Offer(found.stores, place)

    def _pull(self, peer: Peer, contacts: Contacts, stores: Sequence[Store]) -> tuple[Tally, StubmailError | None]:
        """Pull from the first store that answers. Runs in a worker thread."""
        failure: StubmailError | None = None
        tally, stopping = Tally(), self._stopping.is_set
        for store in stores:
            if peer.client is None or peer.store != store:
                peer.store, peer.client = store, self._connect(peer.account, store)
            client, limits = peer.client, self._limits
            pull = Pull(peer.account, contacts, peer.domain, store.host, client, limits, self._gate, stopping)
            try:
                tally = pull.run()
            except StubmailError as error:
                tally, failure = pull.tally, error
                if isinstance(error, AccountTrouble | Stopped) or tally != Tally():
                    break
            else:
                failure = None
                break
        if tally.complete and not (self._limits.keep or self._limits.dry_run):
            self._remember(peer, contacts, tally)
        return tally, failure

    def _remember(self, peer: Peer, contacts: Contacts, tally: Tally) -> None:
        assert peer.store is not None
        until = schedule.next_full_check(self._clock(), self._limits.full_check, self._rng)
        peer.account.jar.saw(peer.store.url, Seen(tally.serial, contacts.domains[peer.domain].digest, until))

    def _failed(self, name: str, backoff: Backoff | None, error: StubmailError | OSError) -> None:
        delay = backoff.failed(time.monotonic()) if backoff else 0.0
        self.report.failed.add(name)
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

    async def _blocking(self, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *args)


def _in_order(stores: Sequence[Store], used: Store | None) -> list[Store]:
    """Stay with the store in use as long as DNS names it, for the sake of its session; RFC 2782 spreads clients."""
    return sorted(stores, key=lambda store: store != used)
