"""The outbox of one account: what of its own mail ended unfetched becomes a notice in its maildrop, once."""

import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.http2mbox import schedule
from services.http2mbox.account import Account
from services.http2mbox.incoming import Stopped
from services.http2mbox.notices import STATES, Notice, check_page, compose
from services.http2mbox.pull import Limits
from services.http2mbox.schedule import Backoff
from stubmail.discovery import Store
from stubmail.log import event
from stubmail.sent import Record
from stubmail.store_answers import Outbox, Sent

PAGE = 250  # posts; their notices are in memory together
OVERLAP = 86_400  # seconds before the last look; a change may become visible late, or bear the time of a slow clock
LOOK_BACK = 90 * 86_400  # seconds; less than what is told is remembered for, so that nothing is told twice
WAITING = "waiting"

_log = logging.getLogger("http2mbox")


class Client(Protocol):
    """The part of a StoreClient that is used here; see there for what it raises."""

    def outbox(
        self, after: int = 0, limit: int = PAGE, states: Sequence[str] = (), since: int | None = None
    ) -> Outbox: ...


class Records(Protocol):
    """Headers of sent mail, as stubmail.sent.SentRecords has them. Raises OSError."""

    def find(self, ids: Collection[bytes], since: float) -> dict[bytes, Record]: ...

    def has_before(self, time: float) -> bool: ...

    def forget_before(self, time: float) -> int: ...


@dataclass(slots=True)
class Told:
    """What a look brought: how many notices, or how many there would be (in a dry run)."""

    delivered: int = 0
    waiting: int = 0


class OwnOutbox:
    """One account's posts at the store of its own domain.

    ``stores`` returns the store's records in the order to try, none when the domain has no stub mail; it and the client
    that ``connect`` makes for a store may block, and so does ``look``, which is for one thread at a time.
    """

    def __init__(
        self,
        account: Account,
        stores: Callable[[], Sequence[Store]],
        connect: Callable[[Store], Client],
        records: Records,
        limits: Limits,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.account = account
        self.backoff = Backoff(rng)
        self.busy = False
        self._stores = stores
        self._connect = connect
        self._records = records
        self._limits = limits
        self._rng = rng
        self._clock = clock
        self._at: tuple[Store, Client] | None = None
        self._due: float | None = None  # as the state has it, once it was read

    def is_due(self) -> bool:
        """Whether to look now; returns at once. A clock that was set back ends the wait as well."""
        now = self._clock()
        return self._due is None or not now < self._due <= now + 2 * self._limits.full_check

    def look(self, told: Told, *, full: bool, stopping: Callable[[], bool]) -> None:
        """Tell of what has ended since the last look, if it is time for that; ``full``: in any case, and of all.

        ``told`` counts, also when this raises: AccountTrouble when the account's own side does not work, TemporaryError
        or StoreRefused for the store's.
        """
        last, self._due = self.account.state.watch()
        if not (full or self.is_due()):
            return
        now = self._clock()
        if stores := self._stores():
            if self._at is None or self._at[0] not in stores:
                self._at = stores[0], self._connect(stores[0])
            store, client = self._at
            start = max(0.0, now - LOOK_BACK, 0.0 if full else min(last, now) - OVERLAP)
            self._page_through(client, store.host, int(start), told, stopping)
            if not self._limits.dry_run:
                self._forget_headers(client)
        if not self._limits.dry_run:
            self._due = schedule.next_full_check(now, self._limits.full_check, self._rng)
            self.account.state.set_watch(now, self._due)

    def _page_through(self, client: Client, host: str, since: int, told: Told, stopping: Callable[[], bool]) -> None:
        after, more = 0, True
        while more:
            if stopping():
                raise Stopped("4.3.2", "stopping")
            page = client.outbox(after, PAGE, STATES, since)
            check_page(page, since, after)
            if page.posts:
                self._tell(page.posts, host, told)
                since, after = page.posts[-1].changed, page.posts[-1].serial
            more = page.more

    def _tell(self, posts: Sequence[Sent], host: str, told: Told) -> None:
        def notices(new: Sequence[Sent]) -> list[Notice]:
            return compose(new, self._find(new), self.account.address, host, self._clock()) if new else []

        if self._limits.dry_run:
            known = self.account.state.told(post.id for post in posts)
            new = notices([post for post in posts if post.id not in known])
            told.waiting += sum(notice.message is not None for notice in new)
            return
        for notice in self.account.tell(posts, notices):
            told.delivered += notice.message is not None
            what = "notified" if notice.message is not None else "not-notified"
            for post in notice.posts:
                event(_log, what, post.id.hex(), sender=self.account.address, to=post.address, state=post.state)

    def _find(self, posts: Sequence[Sent]) -> dict[bytes, Record]:
        try:
            return self._records.find([post.id for post in posts], min(post.stored for post in posts))
        except OSError as error:  # a notice that quotes less is better than none
            self._log_unread(error)
            return {}

    def _forget_headers(self, client: Client) -> None:
        """Remove what was noted of messages that are all dealt with: those stored before the oldest that waits."""
        now = self._clock()
        try:
            if self._records.has_before(now):
                waiting = client.outbox(0, 1, (WAITING,)).posts
                self._records.forget_before(min([now, *(post.stored for post in waiting)]))
        except OSError as error:
            self._log_unread(error)

    def _log_unread(self, error: OSError) -> None:
        address, reason = str(self.account.address), error.strerror or error
        event(_log, "no-headers", address, level=logging.WARNING, path=error.filename, reason=reason)
