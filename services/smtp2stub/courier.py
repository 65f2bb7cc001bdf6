"""The courier: what of the queue is worked on when, and how it goes on after a fault."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any

from services.smtp2stub.agenda import Agenda
from services.smtp2stub.counters import Counters
from services.smtp2stub.handling import Deliverer, Handling, Notifier
from services.smtp2stub.schedule import Schedule
from stubmail.log import event
from stubmail.queue import ItemError, Queue

MAX_ACTIVE = 500  # new messages being worked on at a time; their contents are not in memory
MAX_RETRIES = 100  # beyond those, so that new mail does not keep old mail from its next attempt
SCAN_SECONDS = 10.0  # the longest time without looking, though nobody rings
FAULT_SECONDS = 30.0  # until the next attempt when one failed for a reason of our own, a full disk for example

_log = logging.getLogger("smtp2stub.courier")


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
        counters: Counters | None = None,
    ) -> None:
        self._queue = queue
        self._deliverer = deliverer
        self._clock = clock
        self._counters = Counters() if counters is None else counters
        self._agenda = Agenda()
        self._handling = Handling(
            queue,
            deliverer,
            notifier,
            schedule,
            self._agenda,
            disk=disk,
            notices=notices,
            clock=clock,
            rng=rng,
            look=self.ring,
            counters=self._counters,
        )
        self._arrivals = self._handling.arrivals
        self._active: dict[str, asyncio.Task[None]] = {}
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
        self._handling.dropped = frozenset(queue_id for queue_id, order in orders if order == "drop")
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
                self._start(queue_id, self._handling.filed(queue_id))

    def _take_arrivals(self) -> None:
        while self._arrivals.has_backlog() and len(self._active) < MAX_ACTIVE:
            for stored in self._arrivals.take(self._agenda):
                self._start(stored.item.id, self._handling.arrived(stored))
            if not self._arrivals.has_backlog():
                self._arrivals.look()

    def _take_due(self) -> None:
        while len(self._active) < MAX_ACTIVE + MAX_RETRIES and (queue_id := self._agenda.pop(self._clock())):
            self._start(queue_id, self._handling.filed(queue_id))

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
            self._handling.forget(queue_id)
            return
        event(_log, "failed", queue_id, logging.ERROR, error=repr(error), retry_seconds=FAULT_SECONDS)
        self._counters.add("faults")
        if not isinstance(error, OSError | ItemError):
            _log.error("the reason", exc_info=error)
        asyncio.get_running_loop().call_later(FAULT_SECONDS, self._resume, queue_id)

    def _resume(self, queue_id: str) -> None:
        """Go on with a message after a fault."""
        if not self._stopping and queue_id not in self._active:
            self._start(queue_id, self._handling.again(queue_id))
