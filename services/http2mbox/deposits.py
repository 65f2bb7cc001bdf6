"""What has been opened goes into the maildrop part by part; while the disk is at one, the next one is opened."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple

from services.http2mbox.account import Account, Arrival, Deposit
from services.http2mbox.state import AccountTrouble, PostKey
from services.http2mbox.tally import Tally
from services.http2mbox.trust import REFUSED, Untrusted
from services.http2mbox.workers import Lane
from stubmail.log import event, together
from stubmail.store_answers import Listed

COMMIT_POSTS = 500  # that go into the maildrop together
COMMIT_OCTETS = 4 * 2**20  # of messages in memory before they go there
MEMORY = 2 * COMMIT_OCTETS  # octets: one part on its way to the disk, one being gathered; the last message is extra

_log = logging.getLogger("http2mbox")


class _UnderWay(NamedTuple):
    """A part that is being delivered."""

    posts: list[Listed]
    arrivals: list[Arrival]
    outcome: Future[Deposit]


class Deposits:
    """Puts into an account's maildrop what one pass brings, in its order; ``close`` it in the end.

    ``hold`` is called with what the maildrop refuses. The second part and later ones have a thread of their own, which
    touches nothing but the account. Methods raise AccountTrouble when the account's own side does not work: what is
    told of one part may come of the one before.
    """

    def __init__(self, account: Account, tally: Tally, hold: Callable[[Listed, Untrusted], None]) -> None:
        self._account = account
        self._tally = tally
        self._hold = hold
        self._lane = Lane()
        self._posts: list[Listed] = []
        self._arrivals: list[Arrival] = []
        self._octets = 0
        self._under_way: _UnderWay | None = None
        self._delivered: list[Listed] = []

    def add(self, post: Listed, arrival: Arrival) -> None:
        """Take a message; have a part delivered when this makes it whole."""
        self._posts.append(post)
        self._arrivals.append(arrival)
        self._octets += len(arrival.message)
        if self._octets >= COMMIT_OCTETS:
            self.finish()  # nothing more is opened while that much is in memory
        elif len(self._posts) == COMMIT_POSTS:
            self._lane.branch_off()
            self.start()

    def start(self) -> None:
        """Have delivered what there is, now, as something else may take long."""
        self._settle()
        if self._posts:
            outcome = self._lane.run(self._account.deliver, self._arrivals)
            self._under_way = _UnderWay(self._posts, self._arrivals, outcome)
            self._posts, self._arrivals, self._octets = [], [], 0
            if outcome.done():
                self._settle()

    def finish(self) -> None:
        """Deliver what there is, and return when all of it is in the maildrop."""
        self.start()
        self._settle()

    def take_delivered(self) -> list[Listed]:
        """Return the posts that have become durable and were not returned before."""
        delivered, self._delivered = self._delivered, []
        return delivered

    def close(self) -> None:
        """Return when what is under way has ended, however it does; what was not begun is let go."""
        with suppress(AccountTrouble):  # whoever gives up has a reason to tell already
            self._settle()
        self._lane.close()

    def _settle(self) -> None:
        """Wait for the part that is under way, and note what has become of it."""
        part, self._under_way = self._under_way, None
        if part is None:
            return
        deposit = part.outcome.result()
        self._tally.delivered += len(deposit.new)
        self._tally.repeated += len(part.arrivals) - len(deposit.new) - len(deposit.refused)
        with together():
            for arrival in deposit.new:
                event(_log, "delivered", arrival.key[0].hex(), sender=arrival.sender, to=self._account.address)
        for post in part.posts:
            if text := deposit.refused.get(key_of(post)):
                self._hold(post, Untrusted(REFUSED, text))
            else:
                self._delivered.append(post)


def key_of(post: Listed) -> PostKey:
    """Return what tells a post from others."""
    return post.id, post.sender
