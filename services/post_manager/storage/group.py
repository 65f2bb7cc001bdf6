"""Group commit: what several threads write at the same moment is one transaction, and durable by one fsync."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection

from services.post_manager.storage.errors import Conflict

MOST = 64  # pieces of work in one transaction

T = TypeVar("T")
R = TypeVar("R")
Do = Callable[[Connection, Sequence[T]], Sequence[R]]  # does all of these at once: a result for each
Transaction = Callable[[], contextlib.AbstractContextManager[Connection]]


class _Job(Generic[T, R]):
    """One item that waits to be done with others by ``do``, and the thread that waits for it."""

    __slots__ = ("do", "done", "item", "result", "waking")

    def __init__(self, do: Do[T, R], item: T) -> None:
        self.do = do
        self.item = item
        self.result: R | None = None
        self.done = False
        self.waking = threading.Lock()  # held until its thread has to go on
        self.waking.acquire()


class Group:
    """Does in one transaction what came while the one before was at work; the first who came does it for all."""

    def __init__(self, transaction: Transaction, alone: Callable[[Do[Any, Any], Any], Any]) -> None:
        """``transaction`` opens one that commits at its end; ``alone`` does one item in one, with retries."""
        self._transaction = transaction
        self._alone = alone
        self._mutex = threading.Lock()
        self._waiting: list[_Job[Any, Any]] = []
        self._led = False  # whether a thread is at work for the others

    def run(self, do: Do[T, R], item: T) -> R:
        """Return what ``do`` returns for ``item``, once that is committed. Raises what ``alone`` raises.

        ``do`` gets the items of all threads that want the same done. It may be run more than once, and in another
        thread; only the last time counts.
        """
        job = _Job(do, item)
        with self._mutex:
            self._waiting.append(job)
            leads, self._led = not self._led, True
        if not leads:
            job.waking.acquire()  # done, or spoiled, or the next to lead
            leads = job in self._waiting
        if leads:
            self._lead(job)
        return cast(R, job.result) if job.done else cast(R, self._alone(do, item))

    def _lead(self, own: _Job[Any, Any]) -> None:
        jobs = [own]
        try:
            with self._transaction() as connection:
                jobs = self._take()  # only now: more came while this thread waited for its turn
                results = _do(connection, jobs)
            for job, result in results.items():
                job.result = result
                job.done = True
        except Exception as error:
            # One piece of bad work spoils the transaction for all: then each thread finds out about its own.
            if len(jobs) == 1 and not isinstance(error, Conflict):
                raise
        finally:
            self._pass_on(jobs)

    def _take(self) -> list[_Job[Any, Any]]:
        with self._mutex:
            jobs, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        return jobs

    def _pass_on(self, jobs: Sequence[_Job[Any, Any]]) -> None:
        """Let the threads go whose jobs these were; the first of those that came meanwhile leads from here on."""
        with self._mutex:
            self._waiting = [job for job in self._waiting if job not in jobs]
            self._led = bool(self._waiting)
            following = self._waiting[:1]
        for job in (*following, *jobs):
            job.waking.release()


def _do(connection: Connection, jobs: Sequence[_Job[Any, Any]]) -> dict[_Job[Any, Any], Any]:
    """Do all jobs, those of one kind together; return their results."""
    kinds: dict[Do[Any, Any], list[_Job[Any, Any]]] = {}
    for job in jobs:
        kinds.setdefault(job.do, []).append(job)
    results: dict[_Job[Any, Any], Any] = {}
    for do, alike in kinds.items():
        results |= zip(alike, do(connection, [job.item for job in alike]), strict=True)
    return results
