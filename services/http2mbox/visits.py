"""How one domain of an account's correspondents is asked: where it is, whether it has news, and what waits there.

What blocks (DNS, HTTP, decryption, disk) is meant for worker threads and says so.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.http2mbox import schedule
from services.http2mbox.account import Account
from services.http2mbox.checks import Place
from services.http2mbox.contacts import Contacts
from services.http2mbox.counters import Counters
from services.http2mbox.incoming import Stopped
from services.http2mbox.pull import Client, Limits, Pull
from services.http2mbox.schedule import Backoff
from services.http2mbox.state import AccountTrouble
from services.http2mbox.tally import Tally
from services.http2mbox.turns import PATIENCE
from services.http2mbox.workers import MemoryGate
from stubmail.cookies import Cookie, Seen
from stubmail.datagram import Unknown, Waiting
from stubmail.discovery import Store, StubDomain
from stubmail.errors import StubmailError, TemporaryError

MEMORY = 96 * 2**20  # octets for decryption, all threads together; one post of any size is always let in
MAX_PLACES = 2  # targets that are asked by UDP: each gets one datagram


class Discovery(Protocol):
    """The part of a Resolver that is used here."""

    def discover(self, domain: str) -> StubDomain | None: ...

    def addresses(self, host: str) -> list[str]: ...


class Checker(Protocol):
    """Who asks by UDP."""

    async def ask(self, places: Sequence[Place], cookie: Cookie) -> tuple[Place, Waiting | Unknown] | None: ...


@dataclass(eq=False)
class Peer:
    """One domain of one account's correspondents, and how dealing with it has gone so far."""

    account: Account
    domain: str
    backoff: Backoff
    silence: Backoff  # of its UDP checks
    store: Store | None = None
    client: Client | None = None
    place: Place | None = None  # whence the last answer to a check came
    busy: bool = False
    is_slow: bool = False  # the last pass took long and brought nothing
    rests_until: float = 0.0  # monotonic time; while its domain is known to have no stub mail


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a domain's stores are, and where to check by UDP, each in the order to try."""

    stores: tuple[Store, ...]
    places: tuple[Place, ...]


class Visits:
    """Asks domains, for any number of threads; ``stop`` ends what is under way soon.

    ``connect`` makes the client for an account and a store; it does not block.
    """

    def __init__(
        self,
        discovery: Discovery,
        checker: Checker,
        connect: Callable[[Account, Store], Client],
        limits: Limits,
        counters: Counters,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._discovery = discovery
        self._checker = checker
        self._connect = connect
        self._limits = limits
        self._counters = counters
        self._rng = rng
        self._clock = clock
        self._gate = MemoryGate(MEMORY)
        self._stopping = threading.Event()
        self._pulls: set[Pull] = set()

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Ask the worker threads to come to an end; what they have begun to deliver is completed."""
        self._stopping.set()

    def under_way(self) -> tuple[int, int]:
        """Return how many posts the passes that are under way have delivered, and how many they are to deliver."""
        tallies = [pull.tally for pull in self._pulls.copy()]
        return sum(tally.delivered for tally in tallies), sum(tally.waiting for tally in tallies)

    def discover(self, domain: str) -> Offer | None:
        """Return what a domain offers; None when it has no stub mail. Blocks. Raises StubmailError when DNS fails."""
        found = self._discovery.discover(domain)
        if found is None:
            return None
        places: list[Place] = []
        for target in found.checks[:MAX_PLACES]:
            try:
                places.append((self._discovery.addresses(target.host)[0], target.port))
            except TemporaryError:
                continue  # another one, or the store over HTTP, may still answer
        return Offer(found.stores, tuple(places))

    async def has_news(self, peer: Peer, offer: Offer, contacts: Contacts) -> bool:
        """Ask by UDP whether a listing is needed (protocol.md §6); True whenever that cannot be known."""
        cookie = peer.account.jar.get(in_order(offer.stores, peer.store)[0].url)
        if cookie is None:
            peer.client = None  # no cookie without a new session
            return True
        digest, now = contacts.domains[peer.domain].digest, self._clock()
        seen = cookie.seen
        if seen is None or not schedule.worth_checking(seen, digest, now, self._limits.full_check):
            return True
        if not offer.places or not peer.silence.ready(time.monotonic()):
            return True
        heard = await self._checker.ask(sorted(offer.places, key=lambda place: place != peer.place), cookie)
        if heard is None:
            peer.silence.failed(time.monotonic())
            self._counters.add("checks silent")
            return True
        peer.silence.succeeded()
        peer.place, answer = heard
        if isinstance(answer, Unknown):
            peer.client = None
            self._counters.add("checks unknown")
            return True
        news = schedule.is_news(seen, answer)
        self._counters.add("checks news" if news else "checks nothing")
        return news

    def pull(self, peer: Peer, contacts: Contacts, stores: Sequence[Store]) -> tuple[Tally, StubmailError | None]:
        """Pull from the first store that answers. Blocks."""
        failure: StubmailError | None = None
        tally, began = Tally(), time.monotonic()
        for store in in_order(stores, peer.store):
            if peer.client is None or peer.store != store:
                peer.store, peer.client = store, self._connect(peer.account, store)
            tally, failure = self._try(peer, contacts, store, peer.client)
            if failure is None or isinstance(failure, AccountTrouble | Stopped) or tally != Tally():
                break
        seconds = time.monotonic() - began
        peer.is_slow = seconds > PATIENCE and not tally.delivered
        self._counters.pulled(tally, failure is not None, seconds)
        if tally.complete and not (self._limits.keep or self._limits.dry_run):
            self._remember(peer, contacts, tally)
        return tally, failure

    def _try(self, peer: Peer, contacts: Contacts, store: Store, client: Client) -> tuple[Tally, StubmailError | None]:
        stopping = self._stopping.is_set
        pull = Pull(peer.account, contacts, peer.domain, store.host, client, self._limits, self._gate, stopping)
        self._pulls.add(pull)
        try:
            return pull.run(), None
        except StubmailError as error:
            return pull.tally, error
        finally:
            self._pulls.discard(pull)

    def _remember(self, peer: Peer, contacts: Contacts, tally: Tally) -> None:
        assert peer.store is not None
        until = schedule.next_full_check(self._clock(), self._limits.full_check, self._rng)
        peer.account.jar.saw(peer.store.url, Seen(tally.serial, contacts.domains[peer.domain].digest, until))


def in_order(stores: Sequence[Store], used: Store | None) -> list[Store]:
    """Stay with the store in use as long as DNS names it, for the sake of its session; RFC 2782 spreads clients."""
    return sorted(stores, key=lambda store: store != used)
