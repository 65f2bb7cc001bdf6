"""One account as the courier uses it: its keyring, its unlocked key, and its session with its own domain's store."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from services.smtp2stub.keys import REFRESH_SECONDS, Keys
from services.smtp2stub.sealing import Destination, seal
from stubmail.discovery import Resolver, Store
from stubmail.dsn import MAX_HEADER, quotable
from stubmail.errors import Exit, PermanentError, StubmailError, TemporaryError
from stubmail.http_client import HttpClient
from stubmail.keyring import Keyring
from stubmail.log import event
from stubmail.openpgp import Identity, OpenPGPError
from stubmail.queue import ItemError, Outcome, State, Stored
from stubmail.sent import Record, SentLog
from stubmail.store_client import NewPost, Result, StoreClient, StoreRefused
from stubmail.users import User

VIA = "stub"
MAX_POSTS = 250  # in one request: with the longest addresses they fit into its JSON (protocol.md §9)
MAX_OCTETS = 16 * 2**20  # of messages that go into one request, but for a single larger one

_log = logging.getLogger("smtp2stub.courier")


@dataclass(slots=True)
class Parcel:
    """A message for recipients with stub mail, and what became of each; ``header`` is there once it was read."""

    stored: Stored
    destinations: Sequence[Destination]
    outcomes: list[Outcome] = field(default_factory=list)
    header: bytes = b""

    def settle(self, outcome: Outcome) -> None:
        """Give all recipients the same outcome."""
        self.outcomes = [outcome] * len(self.destinations)

    def records(self) -> Iterator[Record]:
        """Yield what notices about the posts that were stored would need, those that nobody wants apart."""
        item = self.stored.item
        outcomes = zip(self.destinations, self.outcomes, strict=True)
        done = [(d.post_id, item.recipients[d.index]) for d, outcome in outcomes if outcome.state is State.DONE]
        for wanted in (True, False):
            group = [(post_id, recipient) for post_id, recipient in done if recipient.wants("FAILURE") is wanted]
            posts = tuple((post_id, recipient.address) for post_id, recipient in group)
            originals = tuple((post_id, recipient.original) for post_id, recipient in group if recipient.original)
            if posts:
                mail_from = item.mail_from if wanted else None
                yield Record(mail_from, posts, self.header, item.utf8, item.envid, originals)


class Account:
    """An account's keys and store; ``post`` is for one thread at a time, ``keys`` for any."""

    def __init__(
        self,
        user: User,
        keyring: Keyring,
        resolver: Resolver,
        http: HttpClient,
        clock: Callable[[], float],
        store: Store | None = None,
        sent: Path | None = None,
        *,
        refresh_seconds: float = REFRESH_SECONDS,
        count: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Use the store ``store``, or the one that the domain's DNS records name, and note in the directory ``sent``
        what was stored; ``refresh_seconds`` and ``count`` are those of Keys. Raises PermanentError 5.3.5 for a user
        without an address."""
        if user.address is None:
            raise PermanentError("5.3.5", f"the account {user.name} has no address")
        self.address = user.address
        self.keys = Keys(keyring, http, clock, account=user.address, refresh_seconds=refresh_seconds, count=count)
        self._user = user
        self._keyring = keyring
        self._resolver = resolver
        self._http = http
        self._clock = clock
        self._fixed_store = store
        self._sent = SentLog(sent, user.address) if sent else None
        self._client: StoreClient | None = None
        self._identity: Identity | None = None

    def identity(self) -> Identity:
        """Return the account's own key, unlocked once. Raises PermanentError and ConfigError."""
        if self._identity is None:
            self._identity = self._keyring.identity(self.address, self._user.passphrase())
        return self._identity

    def post(self, parcels: Sequence[Parcel]) -> None:
        """Seal messages and store them as posts; what became of them is in the parcels.

        What is wrong on our own side, the key, the store or its policy, keeps mail waiting: it is for the
        administrator to mend, not a reason to send it back.
        """
        try:
            identity = self.identity()
            client = self._store_client(identity)
            largest = client.session.max_post
            identity.close()  # reading the store's answer took a process; there may be many accounts
            if not largest:
                raise TemporaryError("4.7.1", f"our store {client.store_record} takes no mail from {self.address}")
        except (StubmailError, Exit) as error:
            self._defer(parcels, error)
            return
        todo = [(parcel, posts) for parcel in parcels if (posts := self._seal(parcel, identity, largest))]
        for requests in _requests(todo):
            self._store(client, requests)
        if self._sent is not None and (records := [record for parcel, _ in todo for record in parcel.records()]):
            self._sent.add(records, self._clock())

    def _seal(self, parcel: Parcel, identity: Identity, largest: int) -> list[NewPost]:
        """Return a message's posts; none, and the outcomes set, when there can be none."""
        when = datetime.fromtimestamp(self._clock(), UTC)
        item = parcel.stored.item
        try:
            parcel.header = quotable(parcel.stored.header(MAX_HEADER))
            # The content is not kept here meanwhile: sealing takes several times as much memory.
            posts = seal(identity, item.sender, parcel.stored.content(), parcel.destinations, when)
        except OpenPGPError as error:
            if error.reason == "too-large":
                parcel.settle(Outcome.of(error, VIA))
            else:
                self._defer([parcel], error)
                self._identity = self._client = None  # our key may have been renewed since it was unlocked
            return []
        except (OSError, ItemError) as error:
            event(_log, "failed", item.id, logging.ERROR, reason=f"cannot read the message: {error}")
            self._defer([parcel], TemporaryError("4.3.0", "the message cannot be read now"))
            return []
        parcel.settle(Outcome())
        if len(posts[0].head) + len(posts[0].body) > largest:
            parcel.settle(Outcome(State.FAILED, "5.3.4", f"our store takes posts of up to {largest} octets", VIA))
            return []
        return posts

    def _store(self, client: StoreClient, request: "_Request") -> None:
        try:
            results = client.store([post for _, _, post in request])
        except StoreRefused as error:
            if error.reason == "too-large" and len(request) > 1:  # together; perhaps not each
                for one in request:
                    self._store(client, [one])
                return
            if error.reason == "too-large":
                outcome = Outcome(State.FAILED, "5.3.4", error.text, VIA)
            else:
                outcome = self._deferral(error)
            for parcel, index, _ in request:
                parcel.outcomes[index] = outcome
        except TemporaryError as error:
            outcome = self._deferral(error)
            for parcel, index, _ in request:
                parcel.outcomes[index] = outcome
        else:
            for (parcel, index, _), result in zip(request, results, strict=True):
                parcel.outcomes[index] = _outcome(result)

    def _store_client(self, identity: Identity) -> StoreClient:
        """Return the client for our store; the one in use stays until DNS names others. Raises StubmailError."""
        stores = [self._fixed_store] if self._fixed_store else self._stores()
        if self._client is None or (stores and self._client.store_record not in stores):
            if not stores:
                raise TemporaryError("4.4.4", f"{self.address.domain}, our own domain, has no store in DNS")
            self._client = self._connect(stores[0], identity)
        return self._client

    def _connect(self, store: Store, identity: Identity) -> StoreClient:
        return StoreClient(self._http, store, identity, self.address, self._clock)

    def _stores(self) -> Sequence[Store]:
        try:
            offer = self._resolver.discover(self.address.domain)
        except TemporaryError:
            if self._client is None:
                raise
            return ()
        return offer.stores if offer else ()

    def _defer(self, parcels: Sequence[Parcel], error: StubmailError | Exit) -> None:
        outcome = self._deferral(error)
        for parcel in parcels:
            parcel.settle(outcome)

    def _deferral(self, error: StubmailError | Exit) -> Outcome:
        temporary = isinstance(error, TemporaryError)
        event(_log, "deferred", self._user.name, logging.WARNING if temporary else logging.ERROR, reason=error.text)
        code = error.code if isinstance(error, StubmailError) else "4.3.5"
        return Outcome(State.WAITING, f"4{code[1:]}", error.text, VIA)


_Request = list[tuple[Parcel, int, NewPost]]  # the parcel, the place of the post's outcome in it, and the post


def _requests(todo: Sequence[tuple[Parcel, list[NewPost]]]) -> Iterator[_Request]:
    """Put posts together into requests that are not too large; the posts of a message stay together where they can."""
    request: _Request = []
    octets = 0
    for parcel, posts in todo:
        entries = iter([(parcel, index, post) for index, post in enumerate(posts)])
        while some := list(islice(entries, MAX_POSTS)):
            size = len(posts[0].body)
            if request and (len(request) + len(some) > MAX_POSTS or octets + size > MAX_OCTETS):
                yield request
                request, octets = [], 0
            request += some
            octets += size
    if request:
        yield request


def _outcome(result: Result) -> Outcome:
    """What the store says of one post (protocol.md §5.2)."""
    if result.state == "stored":
        return Outcome(State.DONE, "2.0.0", "", VIA)
    if result.error == "too-large":
        return Outcome(State.FAILED, "5.3.4", f"our store refused the post: {result.message}", VIA)
    if result.error == "id":
        return Outcome(State.FAILED, "5.3.0", f"our store refused the post: {result.message}", VIA)
    return Outcome(State.WAITING, "4.2.2", f"our store refused the post ({result.error}): {result.message}", VIA)
