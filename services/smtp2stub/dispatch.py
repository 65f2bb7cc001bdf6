"""One attempt at one message: each recipient's route found out, then all routes taken at once."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from services.smtp2stub.account import Account, Parcel
from services.smtp2stub.destinations import Destinations
from services.smtp2stub.job import Job
from services.smtp2stub.keys import Addressee
from services.smtp2stub.posting import Posting
from services.smtp2stub.sealing import Destination
from stubmail.address import Address
from stubmail.errors import Exit, StubmailError, TemporaryError
from stubmail.queue import Item, ItemError, Outcome, Stored

RELAYS = (
    4  # messages at once; so many a crash may send again, until it is on disk that the smarthost has them (RFC 1047)
)

Relay = Callable[[Item, Sequence[Address], bytes], list[Outcome]]


class Dispatch:
    """Delivers to the recipients that it is told to.

    ``accounts`` returns an account by name; it may raise StubmailError or Exit.
    ``relay`` talks to the smarthost, in ``relay_threads``; None when there is none.
    """

    def __init__(
        self,
        accounts: Callable[[str], Account],
        destinations: Destinations,
        posting: Posting,
        relay: Relay | None,
        relay_threads: Executor,
    ) -> None:
        self._accounts = accounts
        self._destinations = destinations
        self._posting = posting
        self._relay = relay
        self._relay_threads = relay_threads
        self._relays = asyncio.Semaphore(RELAYS)

    def retry(self) -> None:
        """Whoever wants another try now does not want to hear of earlier failures."""
        self._destinations.forget_failures()

    async def attempt(self, job: Job, indices: Sequence[int]) -> None:
        """Try to deliver to the recipients with these indices; what became of each is recorded in the job."""
        recipients = job.stored.item.recipients
        account = self._account(job.stored.item.account)
        found = await self._destinations.find(account, list({recipients[index].address: None for index in indices}))
        to_post: list[Destination] = []
        to_relay: list[int] = []
        others: dict[int, Outcome] = {}
        for index in indices:
            way = found[recipients[index].address]
            if isinstance(way, Addressee):
                to_post.append(Destination(index, recipients[index].post_id, way))
            elif isinstance(way, StubmailError):
                others[index] = Outcome.of(way)
            else:
                to_relay.append(index)
        if others:
            await job.record(others)
        await asyncio.gather(self._post(job, account, to_post), self._pass_on(job, to_relay))

    def _account(self, name: str) -> Account | StubmailError:
        try:
            return self._accounts(name)
        except (StubmailError, Exit) as error:
            return TemporaryError("4.3.5", error.text)  # ours to mend: the mail waits

    async def _post(self, job: Job, account: Account | StubmailError, destinations: Sequence[Destination]) -> None:
        if not destinations or isinstance(account, StubmailError):
            return
        parcel = Parcel(job.stored, destinations)
        await self._posting.post(account, parcel)
        await job.record({d.index: outcome for d, outcome in zip(destinations, parcel.outcomes, strict=True)})

    async def _pass_on(self, job: Job, indices: Sequence[int]) -> None:
        if not indices:
            return
        assert self._relay is not None
        await job.file()
        recipients = [job.stored.item.recipients[index].address for index in indices]
        loop = asyncio.get_running_loop()
        async with self._relays:
            outcomes = await loop.run_in_executor(self._relay_threads, _relay, self._relay, job.stored, recipients)
            await job.record(dict(zip(indices, outcomes, strict=True)))


def _relay(relay: Relay, stored: Stored, recipients: Sequence[Address]) -> list[Outcome]:
    try:
        content = stored.content()
    except (OSError, ItemError):
        return [Outcome.of(TemporaryError("4.3.0", "the message cannot be read now"))] * len(recipients)
    return relay(stored.item, recipients, content)
