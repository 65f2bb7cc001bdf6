"""The end of a gunicorn that serves: what is asked who wants to know, and what a second SIGTERM does.

SIGTERM: every worker knows at once that the service is going (Draining); for a while, if so configured, requests are
still taken, so that load balancers notice; then no connection is accepted any more, and requests in flight are
answered, for gunicorn's graceful_timeout at most. A second SIGTERM, or the end of that time, breaks them off.
"""

import mmap
import queue
import signal
import time
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter


class Draining:
    """Whether the service is about to end. Made before the fork, and seen by all workers."""

    def __init__(self) -> None:
        self._flag = mmap.mmap(-1, 1)

    def __bool__(self) -> bool:
        return self._flag[0] != 0

    def begin(self) -> None:
        """From now on it is true."""
        self._flag[0] = 1


class DrainingArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """Gunicorn's master process, which says that it ends before it does."""

    def __init__(self, app: Any, draining: Draining, notice: float) -> None:
        self._draining = draining
        self._notice = notice
        super().__init__(app)

    def stop(self, graceful: bool = True) -> None:
        """End the workers; called once, when SIGTERM was received."""
        self._draining.begin()
        if graceful and self.WORKERS and self._notice:
            graceful = self._wait()
        signal.signal(signal.SIGTERM, self._hurry)
        super().stop(graceful)

    def _wait(self) -> bool:
        """Go on to serve for as long as load balancers may need; false when another signal says not to."""
        deadline = time.monotonic() + self._notice
        while (left := deadline - time.monotonic()) > 0:
            try:
                number = self.SIG_QUEUE.get(timeout=left)
            except queue.Empty:
                break
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                return False
        return True

    def _hurry(self, _number: int, _frame: FrameType | None) -> None:
        """A second SIGTERM: what the master itself takes SIGINT for while it waits for its workers."""
        self.SIG_QUEUE.put_nowait(signal.SIGINT)
