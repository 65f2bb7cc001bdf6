"""One account's mail at one domain's store: list, fetch, verify, deliver, acknowledge (protocol.md §2, §5, §7.4)."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol

from services.http2mbox.account import Account
from services.http2mbox.causes import causes, compose
from services.http2mbox.contacts import Contacts
from services.http2mbox.deposits import key_of
from services.http2mbox.held import Held
from services.http2mbox.intake import Client as IntakeClient
from services.http2mbox.intake import Intake
from services.http2mbox.listing import check_page, others_of
from services.http2mbox.opening import Opening
from services.http2mbox.state import OtherSender, PostKey
from services.http2mbox.tally import Tally
from services.http2mbox.trust import TOO_LARGE, Untrusted, admit
from services.http2mbox.workers import Lane, MemoryGate
from stubmail.log import event
from stubmail.pull_state import DROP, RELEASE
from stubmail.store_answers import Listed, Listing, Other

MAX_SENDERS = 3_000  # asked for at once: more of the longest fingerprints would not fit into a request (§9)
PAGE = 1_000  # posts
FIRST_PAGE = 100  # posts; each page may be twice as long as the one before, so that there is soon something to open
MAX_PAGES = 1_000  # in one round; the rest comes in the next
MAX_OTHERS = 1_000  # others with mail waiting that are noted of one store
BATCH_POSTS = 1_000
BATCH_OCTETS = 16 * 2**20

_log = logging.getLogger("http2mbox")


class Client(IntakeClient, Protocol):
    """The part of a StoreClient that a pull uses; see there for what it raises."""

    def list(self, senders: Iterable[str], after: int = 0, limit: int = PAGE) -> Listing: ...


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
        self._clock = clock
        self._held = Held(account.state, domain, contacts.domains[domain].digest, account.address, clock)
        self._opening = Opening(account, contacts, store_host, limits.max_post, self._now)
        self._listed_all = False
        self._lane = Lane()
        self.tally = Tally()
        self._intake = Intake(
            account, self._opening, client, self._lane, gate, self.tally, self._hold, stopping, keep=limits.keep
        )

    def run(self) -> Tally:
        """Deal with everything that waits; ``tally`` says how far it came, also when this raises.

        Raises AccountTrouble when the account's own side does not work, TemporaryError or StoreRefused for the store's.
        """
        others: dict[tuple[str, str], Other] = {}
        with self._intake:
            for page, there in self._pages():
                if len(others) < MAX_OTHERS:
                    others.update(((other.sender, other.address.key), other) for other in page.others)
                self._deal_with(page.posts, there)
            self._intake.finish()
        if not self._listed_all:
            return self.tally
        if not self._limits.dry_run:
            self._conclude(others.values())
        self.tally.complete = True
        return self.tally

    def _list(self, senders: Sequence[str], after: int, limit: int) -> tuple[Listing, set[PostKey]]:
        """Return a page, and what of it was delivered before; what is on its way to the maildrop may be missing."""
        page = self._client.list(senders, after, limit)
        check_page(page, senders, after)
        return page, self._account.state.delivered(map(key_of, page.posts))

    def _pages(self) -> Iterator[tuple[Listing, set[PostKey]]]:
        """Yield what ``_list`` returns, page by page; while one is dealt with, the next one is on its way."""
        chunks = _chunks(sorted(self._contacts.domains[self._domain].fingerprints), MAX_SENDERS)
        chunk, after = next(chunks, None), 0
        for number in range(MAX_PAGES):
            if chunk is None:
                break
            if number == 0:
                coming = self._lane.run(self._list, chunk, after, FIRST_PAGE)
            if not coming.done():
                self._intake.flush()
            page, there = coming.result()
            if number == 0:
                self.tally.serial = page.serial
            if page.more:
                after = page.posts[-1].serial
            else:
                chunk, after = next(chunks, None), 0
            if chunk is not None and number + 1 < MAX_PAGES:
                self._lane.branch_off()
                coming = self._lane.run(self._list, chunk, after, min(PAGE, FIRST_PAGE << min(number + 1, 10)))
            yield page, there
        self._listed_all = chunk is None

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

    def _deal_with(self, posts: Sequence[Listed], there: Collection[PostKey]) -> None:
        """Sort one page: what was delivered before is acknowledged, what is held stays, the rest is fetched."""
        if self.tally.held:
            self._intake.finish()  # so that it shows whether a sender floods us
        there = self._drop([post for post in posts if self._held.decision(post) == DROP]).union(there)
        wanted = [
            post for post in posts if key_of(post) not in there and not self._held.keeps(post) and self._wants(post)
        ]
        self.tally.waiting += len(wanted)
        if self._limits.dry_run:
            return
        if there:
            self.tally.repeated += len(there)
            self._intake.acknowledge([post for post in posts if key_of(post) in there])
        batches = list(_batches(wanted))
        if len(batches) > 1:
            self._lane.branch_off()
        for batch in batches:
            self._intake.take(batch)

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

    def _drop(self, posts: Sequence[Listed]) -> set[PostKey]:
        """Return which posts are to be taken for delivered now."""
        if not posts or self._limits.dry_run:
            return set()
        keys = [key_of(post) for post in posts]
        self._account.drop(keys)
        self.tally.dropped += len(posts)
        for post in posts:
            event(_log, "dropped", post.id.hex(), sender=post.address, to=self._account.address)
        return set(keys)

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
