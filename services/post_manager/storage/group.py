"""Group commit: what several threads write at the same moment is made durable by one fsync."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection

MOST = 64  # pieces of work in one transaction

T = TypeVar("T")
Work = Callable[[Connection], T]
Transaction = Callable[[], contextlib.AbstractContextManager[Connection]]


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    work: Work[T]
    result: T | None = None
    done: bool = False
    alone: bool = False  # it was in a group that failed


class Group:
    """Runs work in transactions. Whoever comes first does the work of all who came while he waited for his turn."""

    def __init__(self, transaction: Transaction, alone: Callable[[Work[Any]], Any]) -> None:
        """``transaction`` opens one that commits at its end; ``alone`` runs one piece of work in one, with retries."""
        self._transaction = transaction
        self._alone = alone
        self._turn = threading.Lock()
        self._mutex = threading.Lock()
        self._waiting: list[_Job[Any]] = []

    def run(self, work: Work[T]) -> T:
        """Return what ``work`` returns, once it is committed. Raises what ``alone`` raises; then it is not.

        ``work`` may be run more than once, and in another thread; only the last time counts.
        """
        job = _Job(work)
        with self._mutex:
            self._waiting.append(job)
        with self._turn:
            if not job.done and not job.alone:
                self._run_waiting(job)
            if not job.done:
                job.result = self._alone(work)
        return cast(T, job.result)

    def _run_waiting(self, own: _Job[Any]) -> None:
        with self._mutex:
            jobs = [own, *(job for job in self._waiting if job is not own)][:MOST]
            self._waiting = [job for job in self._waiting if job not in jobs]
        if len(jobs) == 1:
            return
        for job in jobs:
            job.alone = True
        # One piece of bad work spoils the transaction for all: then each thread finds out about its own.
        with contextlib.suppress(Exception):
            with self._transaction() as connection:
                results = [job.work(connection) for job in jobs]
            for job, result in zip(jobs, results, strict=True):
                job.result = result
                job.done = True
