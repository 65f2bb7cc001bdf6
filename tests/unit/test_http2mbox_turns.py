"""Turns at threads: quick jobs do not wait for slow ones, and there is a bound to both."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from services.http2mbox.turns import Turns
from tests.support.waiting import eventually


class Jobs:
    """Jobs that wait until they are released; ``running`` are those that have begun."""

    def __init__(self) -> None:
        self.running: list[int] = []
        self.released = threading.Event()

    def wait(self, number: int) -> int:
        self.running.append(number)
        assert self.released.wait(30)
        return number


def run(test: Callable[[Jobs], Coroutine[Any, Any, Turns]]) -> None:
    async def whole() -> None:
        jobs = Jobs()
        try:
            turns = await asyncio.wait_for(test(jobs), 20)
        finally:
            jobs.released.set()
        turns.shutdown()

    asyncio.run(whole())


def test_results_and_errors_come_back() -> None:
    async def test(_jobs: Jobs) -> Turns:
        turns = Turns(2)
        assert await turns.run(int, "7") == 7
        assert await turns.run(int, "8", slow=True) == 8
        with pytest.raises(ValueError, match="x"):
            await turns.run(int, "x")
        return turns

    run(test)


def test_quick_jobs_are_bounded() -> None:
    async def test(jobs: Jobs) -> Turns:
        turns = Turns(2, patience=60)
        waiting = [asyncio.create_task(turns.run(jobs.wait, number)) for number in range(4)]
        await eventually(lambda: len(jobs.running) == 2)
        assert await turns.run(int, "7", slow=True) == 7
        assert jobs.running == [0, 1]
        jobs.released.set()
        assert await asyncio.gather(*waiting) == [0, 1, 2, 3]
        return turns

    run(test)


def test_slow_jobs_give_way_up_to_a_bound() -> None:
    async def test(jobs: Jobs) -> Turns:
        turns = Turns(1, slow=2, patience=0.001)
        waiting = [asyncio.create_task(turns.run(jobs.wait, number)) for number in range(5)]
        await eventually(lambda: len(jobs.running) == 3)  # two have given way, the third cannot
        late = asyncio.create_task(turns.run(jobs.wait, 5, slow=True))
        jobs.released.set()
        assert await asyncio.gather(*waiting, late) == [0, 1, 2, 3, 4, 5]
        return turns

    run(test)


def test_what_is_known_to_be_slow_takes_no_quick_turn() -> None:
    async def test(jobs: Jobs) -> Turns:
        turns = Turns(1, slow=2, patience=60)
        waiting = [asyncio.create_task(turns.run(jobs.wait, number, slow=True)) for number in range(5)]
        await eventually(lambda: len(jobs.running) == 2)
        assert await turns.run(int, "7") == 7
        assert len(jobs.running) == 2
        jobs.released.set()
        assert await asyncio.gather(*waiting) == [0, 1, 2, 3, 4]
        return turns

    run(test)
