"""Looking for a client's next command without sleeping meanwhile, as long as it comes at once."""

import asyncio
import os
import time
from collections.abc import Callable

SECONDS = 0.0002  # from one command to the next, of a client on this machine; one elsewhere takes longer
PAUSE = 64  # times that it is not tried after it was of no use


class BusyPoll:
    """Keeps the event loop from going to sleep for a moment.

    To be woken takes as long as all the rest of a message's retrieval, since the processor has gone to sleep, too. It
    is tried for a client that has just been quick, not while threads are at work (``jobs``), which need Python's global
    lock, and not where there is one processor: the client needs that.
    """

    def __init__(self, jobs: Callable[[], int], processors: int | None = None) -> None:
        self._jobs = jobs
        self._until = 0.0
        self._polling = False
        alone = (processors or len(os.sched_getaffinity(0))) < 2
        self._pause = -1 if alone else 0  # times to come that it is not tried; below 0: never

    def start(self, now: float) -> None:
        """Poll for a moment from ``now`` on, in seconds of time.monotonic."""
        if self._pause:
            self._pause -= self._pause > 0
            return
        self._until = now + SECONDS
        if not self._polling:
            self._polling = True
            asyncio.get_running_loop().call_soon(self._poll)

    def _poll(self) -> None:
        """Come again in the event loop's next round, which does not wait for anything then."""
        self._polling = False
        if self._jobs():
            return
        if time.monotonic() < self._until:
            self._polling = True
            asyncio.get_running_loop().call_soon(self._poll)
        else:
            self._pause = PAUSE
