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


class Job(Generic[T, R]):
    """One item that is to be done with others by ``do``."""

    __slots__ = ("_group", "do", "done", "item", "outcome", "over", "waking")

    def __init__(self, group: "Group", do: Do[T, R], item: T) -> None:
        self._group = group
        self.do = do
        self.item = item
        self.outcome: R | None = None
        self.done = False
        self.over = False  # done, or spoiled by another
        self.waking: threading.Lock | None = None  # held until the thread that waits for it has to go on

    def result(self) -> R:
        """Return what ``do`` returns for the item, once that is committed: by this thread, or by another.

        To be called once. Raises what ``alone`` raises.
        """
        if self._group.leads(self):
            self._group.lead(self)
        return cast(R, self.outcome) if self.done else cast(R, self._group.alone(self.do, self.item))


class Group:
    """Does in one transaction what came while the one before was at work; the first who waits does it for all."""

    def __init__(self, transaction: Transaction, alone: Callable[[Do[Any, Any], Any], Any]) -> None:
        """``transaction`` opens one that commits at its end; ``alone`` does one item in one, with retries."""
        self._transaction = transaction
        self.alone = alone
        self._mutex = threading.Lock()
        self._waiting: list[Job[Any, Any]] = []
        self._led = False  # whether a thread is at work for the others

    def run(self, do: Do[T, R], item: T) -> R:
        """Return what ``do`` returns for ``item``, once that is committed. Raises what ``alone`` raises.

        ``do`` gets the items of all that want the same done. It may be run more than once, and in another thread; only
        the last time counts.
        """
        return self.begin(do, item).result()

    def begin(self, do: Do[T, R], item: T) -> Job[T, R]:
        """As ``run``, for who can do other things before he needs the result; it may be done at any time from now."""
        job = Job(self, do, item)
        with self._mutex:
            self._waiting.append(job)
        return job

    def leads(self, job: Job[Any, Any]) -> bool:
        """Wait until a job is over, false; or until it is this thread's turn to do it, and what others wait for."""
        with self._mutex:
            if job.over:
                return False
            if not self._led:
                self._led = True
                return True
            job.waking = threading.Lock()
            job.waking.acquire()
        job.waking.acquire()
        return not job.over

    def lead(self, own: Job[Any, Any]) -> None:
        """Do a job, and with it those that are waiting."""
        jobs = [own]
        try:
            with self._transaction() as connection:
                jobs = self._take(own)  # only now: more came while this thread waited for its turn
                results = _do(connection, jobs)
            for job, result in results.items():
                job.outcome = result
                job.done = True
        except Exception as error:
            # One piece of bad work spoils the transaction for all: then each thread finds out about its own.
            if len(jobs) == 1 and not isinstance(error, Conflict):
                raise
        finally:
            self._pass_on(jobs)

    def _take(self, own: Job[Any, Any]) -> list[Job[Any, Any]]:
        with self._mutex:
            others = [job for job in self._waiting if job is not own]
            self._waiting = others[MOST - 1 :]
        return [own, *others[: MOST - 1]]

    def _pass_on(self, jobs: Sequence[Job[Any, Any]]) -> None:
        """Let the threads go that wait for these; of the others that wait, the first leads from here on."""
        with self._mutex:
            self._waiting = [job for job in self._waiting if job not in jobs]
            following = next((job for job in self._waiting if job.waking is not None), None)
            self._led = following is not None
            wakings = [following.waking] if following is not None else []
            for job in jobs:
                job.over = True
                wakings.append(job.waking)
        for waking in wakings:
            if waking is not None:
                waking.release()


def _do(connection: Connection, jobs: Sequence[Job[Any, Any]]) -> dict[Job[Any, Any], Any]:
    """Do all jobs, those of one kind together; return their results."""
    kinds: dict[Do[Any, Any], list[Job[Any, Any]]] = {}
    for job in jobs:
        kinds.setdefault(job.do, []).append(job)
    results: dict[Job[Any, Any], Any] = {}
    for do, alike in kinds.items():
        results |= zip(alike, do(connection, [job.item for job in alike]), strict=True)
    return results
