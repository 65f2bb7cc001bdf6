"""One message in the courier's hands: an attempt, what comes of it, whom it is told, and what is on disk meanwhile."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Protocol, TypeVar

from services.smtp2stub.agenda import Agenda
from services.smtp2stub.arrivals import Arrivals
from services.smtp2stub.counters import Counters
from services.smtp2stub.job import Job
from services.smtp2stub.schedule import Schedule
from services.smtp2stub.telling import Due, due, tells_of_failure
from stubmail.errors import PermanentError, StubmailError
from stubmail.log import event
from stubmail.queue import SILENT, Outcome, Progress, Queue, State, Stored

T = TypeVar("T")

_log = logging.getLogger("smtp2stub.courier")


class Deliverer(Protocol):
    """What makes an attempt: see Dispatch."""

    async def attempt(self, job: Job, indices: Sequence[int]) -> None: ...

    def retry(self) -> None: ...


class Notifier(Protocol):
    """What tells senders of failures, delays and, if they want, success: see Notices."""

    def deliver(self, stored: Stored, progress: Progress) -> None: ...


class Handling:
    """Works on messages, each in a task of its own; puts them on the ``agenda`` when they have to wait.

    ``disk`` is the thread pool for durable writes, ``notices`` one of a single thread for the notifier; ``look`` asks
    for another look at the orders. ``dropped`` are the messages that a person wants to be rid of.
    """

    def __init__(
        self,
        queue: Queue,
        deliverer: Deliverer,
        notifier: Notifier,
        schedule: Schedule,
        agenda: Agenda,
        *,
        disk: Executor,
        notices: Executor,
        clock: Callable[[], float],
        rng: random.Random,
        look: Callable[[], None],
        counters: Counters,
    ) -> None:
        self._queue = queue
        self._deliverer = deliverer
        self._notifier = notifier
        self._schedule = schedule
        self._agenda = agenda
        self._disk = disk
        self._notices = notices
        self._clock = clock
        self._rng = rng
        self._look = look
        self._counters = counters
        self._jobs: dict[str, Job] = {}
        self.arrivals = Arrivals(queue, self._on_disk)
        self.dropped: frozenset[str] = frozenset()

    async def arrived(self, stored: Stored) -> None:
        """Work on a message from ``incoming`` for the first time."""
        await self._work(Job(self, stored, Progress.fresh(len(stored.item.recipients)), filed=False))

    async def filed(self, queue_id: str) -> None:
        """Work on a message that has a file of its own, by what that and its progress say."""
        stored = await self._on_disk(lambda: self._queue.find(queue_id))
        if stored is None:
            self._agenda.remove(queue_id)
            return
        await self._work(Job(self, stored, self._queue.progress(stored.item), filed=True))

    async def again(self, queue_id: str) -> None:
        """Go on with a message after a fault, with what is known of it."""
        job = self._jobs.get(queue_id)
        await (self._work(job) if job else self.filed(queue_id))

    def forget(self, queue_id: str) -> None:
        """What is known of a message is on disk, or not needed any more."""
        self._jobs.pop(queue_id, None)

    async def _work(self, job: Job) -> None:
        """Make an attempt, and decide what comes next."""
        item, progress = job.item, job.progress
        self._jobs[item.id] = job
        if item.id in self.dropped:
            await self._drop(job)
            return
        if self._agenda.is_held(item.id):
            await job.file()
            self._agenda.put(item.id, progress.next_try)
            return
        if waiting := progress.waiting():
            await self._deliverer.attempt(job, waiting)
            progress.attempts += 1
            self._report(job, waiting)
            if self._schedule.expired(item.accepted, self._clock()):
                self._give_up(progress)
        if not progress.waiting() and not progress.notices and not self._due(job):
            await self._finish(job)
            self._counters.add("messages finished")
            return
        await job.file()
        if await self._notify(job) and not progress.waiting():
            await self._finish(job)
            self._counters.add("messages finished")
            return
        progress.next_try = self._schedule.next_try(max(1, progress.attempts), item.accepted, self._clock(), self._rng)
        await self.save(job)
        self._agenda.put(item.id, progress.next_try)

    async def _notify(self, job: Job) -> bool:
        """Tell the sender what he does not know yet; False when that has still to be done."""
        progress = job.progress
        told = await self._on_disk(lambda: self._queue.told(job.item.id))
        if progress.notices <= told and (news := self._due(job)):
            news.note(progress)
            await self.save(job)
        if progress.notices > told:
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._notices, self._notifier.deliver, job.stored, progress)
                self._counters.add("notices")
            except PermanentError as error:
                return await self._cannot_tell(job, error)
            except StubmailError as error:
                event(_log, "deferred", job.item.id, logging.WARNING, reason=f"the notice: {error.text}")
                return False
        return not self._due(job)

    def _due(self, job: Job) -> Due:
        return due(job.item, job.progress, late=self._schedule.late(job.item.accepted, self._clock()))

    async def _cannot_tell(self, job: Job, error: PermanentError) -> bool:
        """The sender has no place for notices, or his program refuses this one: a failure has to wait for a person,
        anything else may stay unsaid."""
        queue_id, number = job.item.id, job.progress.notices
        if not tells_of_failure(job.progress, number):
            event(_log, "untold", queue_id, logging.WARNING, reason=error.text)
            await self._on_disk(lambda: self._queue.tell(queue_id, number))
            return not self._due(job)
        event(_log, "held", queue_id, logging.ERROR, reason=error.text)
        await self._on_disk(lambda: self._queue.order(queue_id, "hold"))
        self._look()
        return False

    async def _drop(self, job: Job) -> None:
        """Remove a message because a person wants that; nobody is told."""
        dropped = Outcome(State.FAILED, "5.0.0", "dropped", notice=SILENT)
        for index in job.progress.waiting():
            job.progress.outcomes[index] = dropped
        await job.file()
        event(_log, "dropped", job.item.id)
        self._counters.add("messages dropped")
        await self._finish(job)

    def _give_up(self, progress: Progress) -> None:
        for index in progress.waiting():
            last = progress.outcomes[index]
            text = f"given up after {progress.attempts} attempts; the last one: {last.code} {last.text}"
            progress.outcomes[index] = Outcome(State.FAILED, "5.4.7", text, last.via)

    def _report(self, job: Job, indices: Sequence[int]) -> None:
        """Log what became of the recipients that were tried."""
        words = {State.DONE: "sent", State.WAITING: "deferred", State.FAILED: "failed"}
        age = self._clock() - job.item.accepted
        for index in indices:
            outcome, to = job.progress.outcomes[index], job.item.recipients[index].address
            reason = None if outcome.state is State.DONE else f"{outcome.code} {outcome.text}"
            word = words[outcome.state]
            event(_log, word, job.item.id, to=to, via=outcome.via or None, age=f"{age:.3f}", reason=reason)
            self._counters.tried(outcome.via, word, age)

    # Files

    async def file(self, job: Job) -> None:
        """Give a message its own file; from then on its progress is kept. What is known so far may be forgotten in a
        crash: these were posts."""
        job.stored = await self._on_disk(lambda: self._queue.file(job.stored))
        job.filed = True
        self._agenda.put(job.item.id, float("inf"))
        for queue_id in await self.arrivals.release(job.item.id, filed=True):
            await self._remove(queue_id)

    async def save(self, job: Job) -> None:
        """Keep a filed message's progress."""
        async with job.saving:
            progress = replace(job.progress, outcomes=list(job.progress.outcomes), delayed=dict(job.progress.delayed))
            await self._on_disk(lambda: self._queue.save(job.item.id, progress))

    async def _finish(self, job: Job) -> None:
        """The message is gone: remove it."""
        if not job.filed:
            for queue_id in await self.arrivals.release(job.item.id, filed=False):
                await self._remove(queue_id)
            return
        if self.arrivals.is_here(job.item.id):
            await self.save(job)
        if self.arrivals.is_here(job.item.id):  # still
            self.arrivals.gone(job.item.id)
        else:
            await self._remove(job.item.id)

    async def _remove(self, queue_id: str) -> None:
        await self._on_disk(lambda: self._queue.finish(queue_id))
        self._agenda.remove(queue_id)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)
