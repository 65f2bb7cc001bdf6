"""Who may block a thread, and when: jobs that take long must not keep quick ones from their turn."""

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

from services.http2mbox.workers import Workers

PATIENCE = 2.0  # seconds, after which a job counts as slow
SLOW_PER_QUICK = 4  # such jobs may be many, as they do but wait

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


class Turns:
    """Threads for ``quick`` jobs at once, and for ``slow`` others that have taken more than ``patience`` seconds.

    A job that turns out slow gives its turn to the next one as soon as there is room among the slow ones. All methods
    belong to the event loop.
    """

    def __init__(self, quick: int, slow: int = 0, patience: float = PATIENCE) -> None:
        slow = slow or SLOW_PER_QUICK * quick
        self._threads = Workers(quick + slow)
        self._quick = asyncio.Semaphore(quick)
        self._slow = asyncio.Semaphore(slow)
        self._patience = patience

    async def run(self, function: Callable[[Unpack[Ts]], T], *args: *Ts, slow: bool = False) -> T:
        """Run ``function`` in a thread when it is its turn; one known to be slow waits for others of its kind alone."""
        turn = self._slow if slow else self._quick
        await turn.acquire()
        try:
            job = asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
            if not slow:
                await asyncio.wait((job,), timeout=self._patience)
                if not job.done() and await self._room_among_slow(job):
                    turn.release()
                    turn = self._slow
            return await job
        finally:
            turn.release()

    async def _room_among_slow(self, job: "asyncio.Future[T]") -> bool:
        """Wait for room among the slow jobs; False when ``job`` is done before."""
        room = asyncio.create_task(self._slow.acquire())
        await asyncio.wait((job, room), return_when=asyncio.FIRST_COMPLETED)
        if room.done():
            return True
        room.cancel()
        return False

    def shutdown(self, wait: bool = True) -> None:
        """End the threads once all jobs are done; with ``wait``, return only then."""
        self._threads.shutdown(wait)
