"""The clock that all connections share in place of timers."""

import asyncio
import math
from collections.abc import Callable

import pytest

from services.pop3d.clock import Clock
from services.pop3d.patience import Patience
from tests.support.waiting import eventually


class Guest:
    """Has one deadline, and none after that."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.looks = 0

    def look(self) -> None:
        self.looks += 1
        self.due = math.inf


def test_it_looks_at_those_that_are_due_and_at_nobody_else() -> None:
    async def work() -> None:
        now = asyncio.get_running_loop().time()
        past, soon, later = Guest(now - 1), Guest(now + 0.05), Guest(now + 1000)
        clock = Clock({past, soon, later}, 0.005)
        clock.start()
        assert past.looks == 0, "it is not looked at while it is being made"
        await eventually(lambda: soon.looks)
        assert [guest.looks for guest in (past, soon, later)] == [1, 1, 0]
        assert asyncio.get_running_loop().time() >= now + 0.05

    asyncio.run(work())


def test_it_rests_while_nobody_is_there_and_ticks_once_however_many_come(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        loop, ticks = asyncio.get_running_loop(), list[float]()
        call_later = loop.call_later

        def counting(seconds: float, tick: Callable[[], None]) -> asyncio.TimerHandle:
            ticks.append(seconds)
            return call_later(seconds, tick)

        monkeypatch.setattr(loop, "call_later", counting)
        guests: set[Guest] = set()
        clock = Clock(guests, 0)
        first = Guest(math.inf)
        guests.add(first)
        clock.start()
        clock.start()
        assert len(ticks) == 1
        guests.clear()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(ticks) == 1
        guests.add(Guest(0))
        clock.start()
        assert len(ticks) == 2

    asyncio.run(work())


def test_how_often_it_looks_goes_by_the_shortest_deadline() -> None:
    assert Patience().often == 1.0
    assert Patience(login=60, idle=0.5, write=120).often == 0.05
