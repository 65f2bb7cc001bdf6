"""How posts come in, batch after batch: fetched ahead, opened in one stream, delivered together, then acknowledged."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import Protocol

from services.http2mbox.account import Account
from services.http2mbox.deposits import MEMORY, Deposits
from services.http2mbox.incoming import Fetcher, Incoming, Stopped
from services.http2mbox.opening import Opening
from services.http2mbox.state import AccountTrouble
from services.http2mbox.tally import Tally
from services.http2mbox.trust import Untrusted
from services.http2mbox.workers import Lane, MemoryGate
from stubmail.errors import TemporaryError
from stubmail.request import MAX_POSTS
from stubmail.store_answers import Listed

MEMORY_FACTOR = 9  # times a post's size is what decrypting it takes at the peak
MAX_GONE = 1_000  # posts listed but not there


class Client(Fetcher, Protocol):
    """The part of a StoreClient that fetched posts need."""

    def ack(self, ids: Sequence[bytes]) -> None: ...


class Intake:
    """Takes in what one pass fetches from one store; use it as a context manager.

    All that is asked of the store goes through ``lane``. While one batch is dealt with, the next one is on its way.
    ``hold`` is called with what is not to be delivered.
    """

    def __init__(
        self,
        account: Account,
        opening: Opening,
        client: Client,
        lane: Lane,
        gate: MemoryGate,
        tally: Tally,
        hold: Callable[[Listed, Untrusted], None],
        stopping: Callable[[], bool],
        *,
        keep: bool,
    ) -> None:
        self._account = account
        self._opening = opening
        self._client = client
        self._lane = lane
        self._gate = gate
        self._tally = tally
        self._hold = hold
        self._stopping = stopping
        self._keep = keep
        self._given_up = False
        self._coming: deque[tuple[Incoming, Future[TemporaryError | None]]] = deque()
        self._deposits = Deposits(account, tally, hold)
        self._acks: deque[Future[None]] = deque()

    def __enter__(self) -> "Intake":
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up = True  # which ends what is being fetched; acknowledgements still go out
        self._deposits.close()
        self._acknowledge_delivered()
        self._lane.close()
        for incoming, _future in self._coming:
            incoming.close()

    def take(self, batch: Sequence[Listed]) -> None:
        """Have a batch fetched, and deal with the one before meanwhile.

        Raises AccountTrouble when the account's own side does not work, TemporaryError or StoreRefused for the store's.
        """
        if self._stopping():
            raise Stopped("4.3.2", "stopping")
        incoming = Incoming(self._account.directory, lambda: self._given_up or self._stopping())
        self._coming.append((incoming, self._lane.run(self._fetch, incoming, batch)))
        while len(self._coming) > 1:
            self._deal_with_first()

    def flush(self) -> None:
        """Have delivered what is opened, as something else may take long now. Raises as ``take``."""
        self._deposits.start()

    def finish(self) -> None:
        """Deal with all that has been taken, and return when that is acknowledged. Raises as ``take``."""
        while self._coming:
            self._deal_with_first()
        self._deposits.finish()
        self._acknowledge_delivered()
        while self._acks:
            self._acks.popleft().result()

    def acknowledge(self, posts: Sequence[Listed]) -> None:
        """Have these posts acknowledged, soon; ``take`` and ``finish`` raise what comes of it."""
        if posts and not self._keep:
            self._acks.append(self._lane.run(self._client.ack, [post.id for post in posts]))

    def _fetch(self, incoming: Incoming, batch: Sequence[Listed]) -> TemporaryError | None:
        try:
            incoming.fetch(self._client, batch)
        except TemporaryError as error:
            return error  # what came whole before counts
        return None

    def _deal_with_first(self) -> None:
        incoming, fetched = self._coming.popleft()
        try:
            with closing(incoming):
                trouble = fetched.result()
                self._open(incoming)
                # The rest goes into the maildrop with what comes next if that is here: decryption can go on first.
                if trouble is not None or not (self._coming and self._coming[0][1].done()):
                    self.flush()
        except OSError as error:
            raise AccountTrouble("4.3.0", f"{self._account.directory}: {error.strerror or error}") from error
        finally:
            self._acknowledge_delivered()
        while self._acks and self._acks[0].done():
            self._acks.popleft().result()
        self._tally.gone += len(incoming.gone)
        if trouble is not None:
            raise trouble
        if self._tally.gone > MAX_GONE:
            raise TemporaryError("4.3.0", "the store lists posts that it does not have")

    def _acknowledge_delivered(self) -> None:
        posts = self._deposits.take_delivered()
        for start in range(0, len(posts), MAX_POSTS):
            self.acknowledge(posts[start : start + MAX_POSTS])

    def _open(self, incoming: Incoming) -> None:
        """Open a batch, and have it delivered in parts; the last one waits for ``flush``."""
        largest = max((post.size for post in incoming.complete), default=0)
        # Domains of one account take turns anyway; here they do so before they take room that others wait for.
        with (
            self._account.turn,
            self._gate.room(MEMORY + MEMORY_FACTOR * largest),
            closing(self._opening.open_all(incoming.complete, incoming.content)) as opened,
        ):
            for post, outcome in opened:
                if self._stopping():
                    raise Stopped("4.3.2", "stopping")
                if isinstance(outcome, Untrusted):
                    self._hold(post, outcome)
                    continue
                self._deposits.add(post, outcome)
