"""The courier: takes what the receiver accepted, tries, tries again, gives up, and knows after a crash where it was."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from services.smtp2stub.agenda import Agenda
from services.smtp2stub.arrivals import Arrivals
from services.smtp2stub.job import Job
from services.smtp2stub.schedule import Schedule
from stubmail.errors import PermanentError, StubmailError
from stubmail.log import event
from stubmail.queue import ItemError, Outcome, Progress, Queue, State, Stored

MAX_ACTIVE = 500  # new messages being worked on at a time; their contents are not in memory
MAX_RETRIES = 100  # beyond those, so that new mail does not keep old mail from its next attempt
SCAN_SECONDS = 10.0  # the longest time without looking, though nobody rings
FAULT_SECONDS = 30.0  # until the next attempt when one failed for a reason of our own, a full disk for example
SILENT = -1  # the number of the notice for failures that nobody is told of

T = TypeVar("T")

_log = logging.getLogger("smtp2stub.courier")


class Deliverer(Protocol):
    """What makes an attempt: see Dispatch."""

    async def attempt(self, job: Job, indices: Sequence[int]) -> None: ...

    def retry(self) -> None: ...


class Notifier(Protocol):
    """What tells senders of failures: see Notices."""

    def deliver(self, stored: Stored, progress: Progress) -> None: ...


class Courier:
    """Works through the queue until it is stopped; the queue's lock must be held.

    ``disk`` is the thread pool for durable writes, ``notices`` one of a single thread for the notifier.
    """

    def __init__(
        self,
        queue: Queue,
        deliverer: Deliverer,
        notifier: Notifier,
        schedule: Schedule,
        *,
        disk: Executor,
        notices: Executor,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._queue = queue
        self._deliverer = deliverer
        self._notifier = notifier
        self._schedule = schedule
        self._disk = disk
        self._notices = notices
        self._clock = clock
        self._rng = rng
        self._agenda = Agenda()
        self._arrivals = Arrivals(queue, self._on_disk)
        self._jobs: dict[str, Job] = {}
        self._active: dict[str, asyncio.Task[None]] = {}
        self._dropped: frozenset[str] = frozenset()
        self._passed_over: set[str] = set()  # orders for messages that were being worked on
        self._rung = True
        self._look = asyncio.Event()
        self._stopping = False

    # The loop

    def recover(self) -> None:
        """Read what a predecessor left; to be called once, before ``run``."""
        self._queue.clean()
        for queue_id in self._queue.filed():
            try:
                stored = self._queue.find(queue_id)
                if stored is not None:
                    self._agenda.put(queue_id, self._queue.progress(stored.item).next_try)
            except ItemError as error:
                event(_log, "damaged", queue_id, logging.ERROR, reason=error)
        event(_log, "started", waiting=len(self._agenda))

    def ring(self) -> None:
        """Look into the queue now."""
        self._rung = True
        self._look.set()

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopping = True
        self._look.set()

    @property
    def idle(self) -> bool:
        """Whether nothing is being worked on."""
        return not self._active

    async def run(self) -> None:
        """Work until ``stop`` has been called and what was under way has come to an end."""
        loop = asyncio.get_running_loop()
        scan = loop.time()
        while not self._stopping:
            self._look.clear()
            if self._rung or loop.time() >= scan:
                self._rung = False
                scan = loop.time() + SCAN_SECONDS
                self._take_orders()
                self._arrivals.look()
            self._take_arrivals()
            self._take_due()
            try:
                await asyncio.wait_for(self._look.wait(), self._pause(scan - loop.time()))
            except TimeoutError:
                continue
        while self._active:
            await asyncio.wait(self._active.values())

    def _pause(self, until_scan: float) -> float:
        due = self._agenda.next() if len(self._active) < MAX_ACTIVE + MAX_RETRIES else None
        return max(0.0, until_scan if due is None else min(until_scan, due - self._clock()))

    def _take_orders(self) -> None:
        orders = self._queue.orders()
        self._agenda.hold(queue_id for queue_id, order in orders if order == "hold")
        self._dropped = frozenset(queue_id for queue_id, order in orders if order == "drop")
        for queue_id, order in orders:
            if order == "hold":
                continue
            if queue_id in self._active:
                self._passed_over.add(queue_id)
            elif order == "retry":
                self._deliverer.retry()
                if queue_id in self._agenda:
                    self._agenda.put(queue_id, 0.0)
                self._queue.obey(queue_id, "retry")
            elif queue_id in self._agenda:
                self._agenda.put(queue_id, float("inf"))
                self._start(queue_id, self._work_filed(queue_id))

    def _take_arrivals(self) -> None:
        while self._arrivals.has_backlog() and len(self._active) < MAX_ACTIVE:
            for stored in self._arrivals.take(self._agenda):
                job = Job(self, stored, Progress.fresh(len(stored.item.recipients)), filed=False)
                self._jobs[stored.item.id] = job
                self._start(stored.item.id, self._work(job))
            if not self._arrivals.has_backlog():
                self._arrivals.look()

    def _take_due(self) -> None:
        while len(self._active) < MAX_ACTIVE + MAX_RETRIES and (queue_id := self._agenda.pop(self._clock())):
            self._start(queue_id, self._work_filed(queue_id))

    def _start(self, queue_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=queue_id)
        self._active[queue_id] = task
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        queue_id = task.get_name()
        del self._active[queue_id]
        if queue_id in self._passed_over:
            self._passed_over.discard(queue_id)
            self._rung = True
        self._look.set()
        if task.cancelled() or (error := task.exception()) is None:
            self._jobs.pop(queue_id, None)
            return
        event(_log, "failed", queue_id, logging.ERROR, error=repr(error), retry_seconds=FAULT_SECONDS)
        if not isinstance(error, OSError | ItemError):
            _log.error("the reason", exc_info=error)
        asyncio.get_running_loop().call_later(FAULT_SECONDS, self._resume, queue_id)

    def _resume(self, queue_id: str) -> None:
        """Go on with a message after a fault, with what is known of it."""
        if not self._stopping and queue_id not in self._active:
            job = self._jobs.get(queue_id)
            self._start(queue_id, self._work(job) if job else self._work_filed(queue_id))

    # One message

    async def _work_filed(self, queue_id: str) -> None:
        stored = await self._on_disk(lambda: self._queue.find(queue_id))
        if stored is None:
            self._agenda.remove(queue_id)
            return
        job = Job(self, stored, self._queue.progress(stored.item), filed=True)
        self._jobs[queue_id] = job
        await self._work(job)

    async def _work(self, job: Job) -> None:
        """Make an attempt, and decide what comes next."""
        item, progress = job.item, job.progress
        if item.id in self._dropped:
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
        if all(outcome.state is State.DONE for outcome in progress.outcomes) and not progress.notices:
            await self._finish(job)
            return
        await job.file()
        if await self._notify(job) and not progress.waiting():
            await self._finish(job)
            return
        progress.next_try = self._schedule.next_try(max(1, progress.attempts), item.accepted, self._clock(), self._rng)
        await self.save(job)
        self._agenda.put(item.id, progress.next_try)

    async def _notify(self, job: Job) -> bool:
        """Tell the sender of failures that he does not know of; False when that has still to be done."""
        progress = job.progress
        told = await self._on_disk(lambda: self._queue.told(job.item.id))
        if progress.notices <= told and (untold := progress.untold()):
            number = progress.notices + 1 if job.item.mail_from else SILENT  # RFC 5321 §4.5.5
            for index in untold:
                progress.outcomes[index] = replace(progress.outcomes[index], notice=number)
            progress.notices = max(progress.notices, number)
            await self.save(job)
        if progress.notices > told:
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._notices, self._notifier.deliver, job.stored, progress)
            except PermanentError as error:
                event(_log, "held", job.item.id, logging.ERROR, reason=error.text)
                await self._on_disk(lambda: self._queue.order(job.item.id, "hold"))
                self._rung = True
                return False
            except StubmailError as error:
                event(_log, "deferred", job.item.id, logging.WARNING, reason=f"the notice: {error.text}")
                return False
        return not progress.untold()

    async def _drop(self, job: Job) -> None:
        """Remove a message because a person wants that; nobody is told."""
        dropped = Outcome(State.FAILED, "5.0.0", "dropped", notice=SILENT)
        for index in job.progress.waiting():
            job.progress.outcomes[index] = dropped
        await job.file()
        event(_log, "dropped", job.item.id)
        await self._finish(job)

    def _give_up(self, progress: Progress) -> None:
        for index in progress.waiting():
            last = progress.outcomes[index]
            text = f"given up after {progress.attempts} attempts; the last one: {last.code} {last.text}"
            progress.outcomes[index] = Outcome(State.FAILED, "5.4.7", text, last.via)

    def _report(self, job: Job, indices: Sequence[int]) -> None:
        """Log what became of the recipients that were tried."""
        words = {State.DONE: "sent", State.WAITING: "deferred", State.FAILED: "failed"}
        age = f"{self._clock() - job.item.accepted:.3f}"
        for index in indices:
            outcome, to = job.progress.outcomes[index], job.item.recipients[index].address
            reason = None if outcome.state is State.DONE else f"{outcome.code} {outcome.text}"
            event(_log, words[outcome.state], job.item.id, to=to, via=outcome.via or None, age=age, reason=reason)

    # Files

    async def file(self, job: Job) -> None:
        """Give a message its own file; from then on its progress is kept. What is known so far may be forgotten in a
        crash: these were posts."""
        job.stored = await self._on_disk(lambda: self._queue.file(job.stored))
        job.filed = True
        self._agenda.put(job.item.id, float("inf"))
        for queue_id in await self._arrivals.release(job.item.id, filed=True):
            await self._remove(queue_id)

    async def save(self, job: Job) -> None:
        """Keep a filed message's progress."""
        async with job.saving:
            progress = replace(job.progress, outcomes=list(job.progress.outcomes))
            await self._on_disk(lambda: self._queue.save(job.item.id, progress))

    async def _finish(self, job: Job) -> None:
        """The message is gone: remove it."""
        if not job.filed:
            for queue_id in await self._arrivals.release(job.item.id, filed=False):
                await self._remove(queue_id)
            return
        if self._arrivals.is_here(job.item.id):
            await self.save(job)
        if self._arrivals.is_here(job.item.id):  # still
            self._arrivals.gone(job.item.id)
        else:
            await self._remove(job.item.id)

    async def _remove(self, queue_id: str) -> None:
        await self._on_disk(lambda: self._queue.finish(queue_id))
        self._agenda.remove(queue_id)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)
