"""Threads for what blocks, and the memory that they may use together."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers(Executor):
    """Up to ``size`` threads, started as they are needed, that never keep the process from ending.

    Those of concurrent.futures would: the interpreter waits for each of them, also for one that a dead store keeps
    waiting. Here the caller ends what must be ended whole (Account.close) and leaves the rest.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``function`` in a thread as soon as one is free; first come, first served."""
        future: Future[T] = Future()
        self._jobs.put(lambda: _run(future, function, *args, **kwargs))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._size:
            thread = threading.Thread(target=self._work, name=f"worker-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once all jobs are done; with ``wait``, return only then. Jobs are not cancelled."""
        for _ in self._threads:
            self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                self._idle.release()
                job = self._jobs.get()
            if job is None:
                return
            job()


def _run(future: Future[T], function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 (whoever awaits the future gets it)
        future.set_exception(error)
    else:
        future.set_result(result)


class Lane:
    """Runs jobs one after the other: at once, or after ``branch_off`` in a thread of its own while the caller goes on.

    For what is asked of one store: a single question is not worth a thread, and a connection of its own.
    """

    def __init__(self) -> None:
        self._workers: Workers | None = None

    def branch_off(self) -> None:
        """Let what comes now run ahead of the caller."""
        self._workers = self._workers or Workers(1)

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``function`` when all before it are through."""
        if self._workers:
            return self._workers.submit(function, *args, **kwargs)
        future: Future[T] = Future()
        _run(future, function, *args, **kwargs)
        return future

    def close(self) -> None:
        """Return when all jobs are through."""
        if self._workers:
            self._workers.shutdown()
            self._workers = None


class MemoryGate:
    """Lets threads in as long as their needs together fit into ``limit`` octets; a larger need waits to be alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def room(self, octets: int) -> Iterator[None]:
        """Wait for room, and keep it for the ``with`` block. What is done inside must not wait for the network."""
        need = min(octets, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._used + need <= self._limit)
            self._used += need
        try:
            yield
        finally:
            with self._changed:
                self._used -= need
                self._changed.notify_all()
