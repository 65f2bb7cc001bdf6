"""One account's mail at one domain's store: list, fetch, verify, deliver, acknowledge (protocol.md §2, §5, §7.4)."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol

from services.http2mbox.account import Account, Arrival
from services.http2mbox.causes import causes, compose
from services.http2mbox.contacts import Contacts
from services.http2mbox.held import Held
from services.http2mbox.incoming import Fetcher, Incoming, Stopped
from services.http2mbox.listing import check_page, others_of
from services.http2mbox.opening import Opening
from services.http2mbox.state import AccountTrouble, OtherSender, PostKey
from services.http2mbox.trust import REFUSED, TOO_LARGE, Untrusted, admit
from services.http2mbox.workers import MemoryGate
from stubmail.errors import TemporaryError
from stubmail.log import event
from stubmail.pull_state import DROP, RELEASE
from stubmail.store_answers import Listed, Listing, Other

MAX_SENDERS = 3_000  # asked for at once: more of the longest fingerprints would not fit into a request (§9)
PAGE = 1_000  # posts
MAX_PAGES = 1_000  # in one round; the rest comes in the next
MAX_OTHERS = 1_000  # others with mail waiting that are noted of one store
MAX_GONE = 1_000  # posts listed but not there
BATCH_POSTS = 100
BATCH_OCTETS = 16 * 2**20
COMMIT_OCTETS = 4 * 2**20  # of messages in memory before they go into the maildrop
MEMORY_FACTOR = 9  # times a post's size is what decrypting it takes at the peak

_log = logging.getLogger("http2mbox")


class Client(Fetcher, Protocol):
    """The part of a StoreClient that a pull uses; see there for what it raises."""

    def list(self, senders: Iterable[str], after: int = 0, limit: int = PAGE) -> Listing: ...

    def ack(self, ids: Iterable[bytes]) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a pull goes.

    ``max_post``: octets of the largest post; ``full_check``: seconds for which UDP checks may spare a listing;
    ``keep``: nothing is acknowledged; ``dry_run``: posts are only listed, and nothing is written.
    """

    max_post: int
    full_check: float = 3600.0
    keep: bool = False
    dry_run: bool = False


@dataclass(slots=True)
class Tally:
    """What one pull did, in posts; ``serial`` is the largest that waited at its beginning, from whomever.

    ``complete``: everything up to that serial has been dealt with.
    """

    delivered: int = 0
    repeated: int = 0  # delivered before, now acknowledged
    held: int = 0
    skipped: int = 0  # of senders of whom too much is held already
    dropped: int = 0  # by order, now acknowledged
    notices: int = 0  # about what is held
    gone: int = 0
    waiting: int = 0  # listed and to be delivered; counted by a dry run
    serial: int = 0
    complete: bool = False


class Pull:
    """One pass over what a store has for an account from one domain; made for each pass, used in one thread.

    Making it raises StateError.
    """

    def __init__(
        self,
        account: Account,
        contacts: Contacts,
        domain: str,
        store_host: str,
        client: Client,
        limits: Limits,
        gate: MemoryGate,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._account = account
        self._contacts = contacts
        self._domain = domain
        self._store_host = store_host
        self._client = client
        self._limits = limits
        self._gate = gate
        self._stopping = stopping
        self._clock = clock
        self._held = Held(account.state, domain, contacts.domains[domain].digest, account.address, clock)
        self._opening = Opening(account, contacts, store_host, limits.max_post, self._now)
        self.tally = Tally()

    def run(self) -> Tally:
        """Deal with everything that waits; ``tally`` says how far it came, also when this raises.

        Raises AccountTrouble when the account's own side does not work, TemporaryError or StoreRefused for the store's.
        """
        senders = self._contacts.domains[self._domain]
        others: dict[tuple[str, str], Other] = {}
        pages = 0
        for chunk in _chunks(sorted(senders.fingerprints), MAX_SENDERS):
            after, more = 0, True
            while more:
                if pages == MAX_PAGES:
                    return self.tally
                page = self._client.list(chunk, after, PAGE)
                check_page(page, chunk, after)
                pages += 1
                if pages == 1:
                    self.tally.serial = page.serial
                if len(others) < MAX_OTHERS:
                    others.update(((other.sender, other.address.key), other) for other in page.others)
                self._deal_with(page.posts)
                more = page.more
                after = page.posts[-1].serial if more else 0
        if not self._limits.dry_run:
            self._conclude(others.values())
        self.tally.complete = True
        return self.tally

    def _conclude(self, others: Collection[Other]) -> None:
        self._held.conclude()
        now = self._clock()
        found = others_of(others, self._contacts, self._domain)
        for other in self._account.state.set_others(self._domain, found, int(now)):
            self._report_mismatch(other)
        why = causes(self._account.state.held(self._domain).values(), found)
        address, host = self._account.address, self._store_host
        self.tally.notices += self._account.warn(why, lambda cause: compose(cause, address, host, now)) if why else 0
        if self.tally.skipped:
            event(_log, "flooded", level=logging.WARNING, domain=self._domain, skipped=self.tally.skipped)

    def _deal_with(self, posts: Sequence[Listed]) -> None:
        """Sort one page: what was delivered before is acknowledged, what is held stays, the rest is fetched."""
        self._drop([post for post in posts if self._held.decision(post) == DROP])
        there = self._account.state.delivered(map(_key, posts))
        wanted = [
            post for post in posts if _key(post) not in there and not self._held.keeps(post) and self._wants(post)
        ]
        self.tally.waiting += len(wanted)
        if self._limits.dry_run:
            return
        if there:
            self.tally.repeated += len(there)
            self._acknowledge([post for post in posts if _key(post) in there])
        for batch in _batches(wanted):
            self._pull_batch(batch)

    def _wants(self, post: Listed) -> bool:
        """Judge a post by its listing: whether it is to be fetched; if not, it is counted and perhaps held."""
        released = self._held.decision(post) == RELEASE
        if self._held.is_full(post.sender) and not released:
            self.tally.skipped += 1
            return False
        objection: Untrusted | None = None
        try:
            admit(post, self._contacts, self._now(), self._limits.max_post)
        except Untrusted as verdict:
            if not released or verdict.reason == TOO_LARGE:
                self._hold(post, verdict)
                return False
            objection = verdict
        if released:
            self._opening.release(post, objection)
        return True

    def _drop(self, posts: Sequence[Listed]) -> None:
        if posts and not self._limits.dry_run:
            self._account.drop([_key(post) for post in posts])
            self.tally.dropped += len(posts)
            for post in posts:
                event(_log, "dropped", post.id.hex(), sender=post.address, to=self._account.address)

    def _pull_batch(self, batch: Sequence[Listed]) -> None:
        if self._stopping():
            raise Stopped("4.3.2", "stopping")
        try:
            with Incoming(self._account.directory, self._stopping) as incoming:
                trouble: TemporaryError | None = None
                try:
                    incoming.fetch(self._client, batch)
                except TemporaryError as error:
                    trouble = error  # what came whole before counts
                largest = max((post.size for post in incoming.complete), default=0)
                with self._gate.room(COMMIT_OCTETS + MEMORY_FACTOR * largest):
                    self._open_and_deliver(incoming)
        except OSError as error:
            raise AccountTrouble("4.3.0", f"{self._account.directory}: {error.strerror or error}") from error
        self.tally.gone += len(incoming.gone)
        if trouble is not None:
            raise trouble
        if self.tally.gone > MAX_GONE:
            raise TemporaryError("4.3.0", "the store lists posts that it does not have")

    def _open_and_deliver(self, incoming: Incoming) -> None:
        arrivals: list[Arrival] = []
        posts: list[Listed] = []
        octets = 0
        for post in incoming.complete:
            try:
                arrivals.append(self._opening.open(post, incoming.content(post)))
            except Untrusted as verdict:
                self._hold(post, verdict)
                continue
            posts.append(post)
            octets += len(arrivals[-1].message)
            if octets >= COMMIT_OCTETS:
                self._deliver(arrivals, posts)
                arrivals, posts, octets = [], [], 0
        self._deliver(arrivals, posts)

    def _deliver(self, arrivals: Sequence[Arrival], posts: Sequence[Listed]) -> None:
        if not arrivals:
            return
        deposit = self._account.deliver(arrivals)
        self.tally.delivered += len(deposit.new)
        self.tally.repeated += len(arrivals) - len(deposit.new) - len(deposit.refused)
        for arrival in deposit.new:
            event(_log, "delivered", arrival.key[0].hex(), sender=arrival.sender, to=self._account.address)
        for post in posts:
            if text := deposit.refused.get(_key(post)):
                self._hold(post, Untrusted(REFUSED, text))
        self._acknowledge([post for post in posts if _key(post) not in deposit.refused])

    def _acknowledge(self, posts: Sequence[Listed]) -> None:
        if posts and not self._limits.keep:
            self._client.ack([post.id for post in posts])

    def _hold(self, post: Listed, verdict: Untrusted) -> None:
        self.tally.held += 1
        if not self._limits.dry_run:
            self._held.add(post, verdict)

    def _report_mismatch(self, other: OtherSender) -> None:
        event(
            _log,
            "mismatched",
            level=logging.WARNING,
            sender=other.address,
            to=self._account.address,
            posts=other.count,
            found=other.sender,
            expected=other.expected,
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _key(post: Listed) -> PostKey:
    return post.id, post.sender


def _chunks(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    position = iter(values)
    while chunk := list(islice(position, size)):
        yield chunk


def _batches(posts: Iterable[Listed]) -> Iterator[list[Listed]]:
    """Split into batches of BATCH_POSTS and BATCH_OCTETS at most; a larger post goes alone."""
    batch: list[Listed] = []
    octets = 0
    for post in posts:
        if batch and (len(batch) == BATCH_POSTS or octets + post.size > BATCH_OCTETS):
            yield batch
            batch, octets = [], 0
        batch.append(post)
        octets += post.size
    if batch:
        yield batch
