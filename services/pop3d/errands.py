"""What a session asks for that takes time, done in threads: logging in, reading messages, removing them."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from services.pop3d.actions import Action, Commit, Credentials, FindKeys, Retrieve
from services.pop3d.counting import count_login
from services.pop3d.host import Host
from services.pop3d.login import Attempt, Elsewhere, Refused
from services.pop3d.maildrop import Maildrop
from services.pop3d.reader import Item, in_turn
from services.pop3d.retrieval import Retrieval
from services.pop3d.session import MANY, Session
from stubmail.errors import StubmailError
from stubmail.log import event
from stubmail.mbox.disk import is_full

DAY = 86_400  # seconds
FEW = 8  # retrievals at a time while somebody logs in

logger = logging.getLogger("pop3d")


class Client(Protocol):
    """The connection that errands are done for."""

    id: str
    address: str
    network: str

    @property
    def lost(self) -> bool:
        """Whether it is gone."""

    def write(self, out: list[bytes]) -> None:
        """Send octets."""

    async def writable(self) -> None:
        """Wait until the client takes more."""

    def opened(self) -> None:
        """Note that the client has logged in."""

    def hand_over(self, elsewhere: Elsewhere) -> None:
        """Let another process go on with the session."""

    def errand_done(self, failed: bool) -> None:
        """Go on, or break off."""


class Errands:
    """One session's maildrop, and the one thing at a time that is done about it."""

    __slots__ = ("_client", "_deferred", "_host", "_job", "_loop", "_maildrop", "_retrieval", "_session", "user")

    def __init__(self, host: Host, client: Client, session: Session) -> None:
        self._host = host
        self._client = client
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._maildrop: Maildrop | None = None
        self._retrieval: Retrieval | None = None  # from the first message on
        self._deferred: Action | None = None  # what came behind a run of retrievals
        self._job: asyncio.Task[None] | None = None
        self.user = ""

    @property
    def busy(self) -> bool:
        """Whether the session waits for one."""
        return self._job is not None

    @property
    def committing(self) -> bool:
        """Whether messages are being removed, or the maildrop is being closed, at this moment."""
        return self._job is not None and self._session.logged_in and self._maildrop is None

    def next(self) -> bytes | Action | None:
        """Return what the session says next; a message that has been read ahead comes as its reply."""
        action: bytes | Action | None = self._deferred or self._session.next()
        self._deferred = None
        if isinstance(action, Retrieve) and self._retrieval is not None:
            return self._retrieval.ready(action) or action
        return action

    def begin(self, action: Credentials | FindKeys | Retrieve | Commit) -> None:
        """Do what takes time; meanwhile the session waits."""
        match action:
            case FindKeys():
                self._start(self._find_keys(action))
            case Retrieve():
                assert self._maildrop is not None
                self._retrieval = self._retrieval or Retrieval(self._host, self._client, self._maildrop)
                self._start(self._retrieval.send(self._run(action), self._more))
            case Commit():
                self._start(self._commit(action))
            case _:
                self._start(self._login(action))

    def rest(self) -> None:
        """Keep nothing in memory that the client may never ask for."""
        if self._retrieval is not None and self._job is None:
            self._retrieval.rest()

    def cancel(self) -> None:
        """Wait no longer for a login."""
        if self._job is not None:
            self._job.cancel()

    def finish(self) -> bool:
        """Let go of the maildrop; returns whether that is done, or else ``errand_done`` will be called."""
        if self._job is not None:
            return False
        if self._maildrop is None:
            return True
        maildrop, self._maildrop = self._maildrop, None
        self._start(self._unlock(maildrop))
        return False

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._host.jobs += 1
        self._job = self._loop.create_task(work)
        self._job.add_done_callback(self._done)

    def _done(self, job: asyncio.Task[None]) -> None:
        self._host.jobs -= 1
        self._job = None
        error = None if job.cancelled() else job.exception()
        if error is not None:
            known = isinstance(error, OSError | StubmailError)
            reason = str(error) or type(error).__name__
            event(logger, "failed", self._client.id, logging.ERROR, user=self.user or None, reason=reason)
            if not known:
                logger.error("a defect", exc_info=error)
        self._client.errand_done(error is not None)

    def _attempt(self) -> Attempt:
        client = self._client
        return Attempt(client.id, client.address, client.network, lambda: client.lost)

    async def _find_keys(self, action: FindKeys) -> None:
        try:
            keys = await self._host.door.keys(self._attempt(), action.name)
        except Refused as refusal:
            self._session.refuse(refusal.code, refusal.text)
        else:
            self._session.keys_found(keys)

    async def _login(self, credentials: Credentials) -> None:
        client, counters, begun = self._client, self._host.counters, self._loop.time()
        try:
            opened = await self._host.door.login(self._attempt(), credentials)
        except Refused as refusal:
            count_login(counters, credentials.mechanism, refusal.code, self._loop.time() - begun)
            self._session.refuse(refusal.code, refusal.text)
            return
        count_login(counters, credentials.mechanism, None, self._loop.time() - begun)
        if isinstance(opened, tuple):
            self.opened(opened[0].name, opened[1])
        else:
            await client.writable()
            client.hand_over(opened)

    def opened(self, user: str, maildrop: Maildrop) -> None:
        """Begin with a user's maildrop, which this closes at the end."""
        self.user, self._maildrop = user, maildrop
        self._session.accept(maildrop)
        self._client.opened()

    def _run(self, first: Retrieve) -> Sequence[Item]:
        """Gather pipelined retrievals and the replies between them, to be read together."""
        items: list[Item] = [first]
        most = FEW if self._others_log_in else MANY
        if most == MANY and first.lines is None and (numbers := self._session.retrievals()):
            return in_turn([first.number, *numbers])
        while len(items) < most:
            action = self._session.next()
            if not isinstance(action, (bytes, Retrieve)):
                self._deferred = action
                break
            items.append(action)
        return items

    def _more(self) -> Sequence[Item]:
        """Return what else is to be read, so that this begins before the last of what was asked for first is sent."""
        if self._deferred is not None or self._others_log_in:
            return []
        return in_turn(self._session.retrievals())

    @property
    def _others_log_in(self) -> bool:
        return self._host.arrivals.others(self._client.id, self._loop.time())

    async def _end_retrieval(self) -> set[int]:
        """Have nobody read the maildrop any more; returns the messages that were asked for and not sent."""
        retrieval, self._retrieval = self._retrieval, None
        if retrieval is None:
            return set()
        await retrieval.settle()
        retrieval.rest()
        return retrieval.failed

    async def _commit(self, action: Commit) -> None:
        assert self._maildrop is not None
        maildrop, self._maildrop = self._maildrop, None
        sent = set(action.retrieved) - await self._end_retrieval()
        try:
            update = partial(_update, maildrop, action, sent)
            count, changed = await self._loop.run_in_executor(self._host.mail, update)
        except (StubmailError, OSError) as error:
            event(logger, "failed", self._client.id, logging.ERROR, user=self.user, what="deletion", reason=error)
            self._session.committed(None, full=is_full(error))
        else:
            self._session.committed(count, changed)

    async def _unlock(self, maildrop: Maildrop) -> None:
        await self._end_retrieval()
        await self._loop.run_in_executor(self._host.mail, maildrop.close)


def _update(maildrop: Maildrop, commit: Commit, sent: set[int]) -> tuple[int, int]:
    """Enter the UPDATE state: remove messages, and unlock the maildrop in any case (RFC 1939 §6).

    Returns how many are gone, and how many stay as another program has changed them.
    ``sent``: those that may not stay since they have been retrieved.
    """
    try:
        numbers = sent.union(commit.numbers)
        if commit.expire:
            numbers.update(maildrop.older(time.time() - commit.expire * DAY))
        changed = maildrop.commit(sorted(numbers)) if numbers else 0
        return len(numbers) - changed, changed
    finally:
        maildrop.close()
