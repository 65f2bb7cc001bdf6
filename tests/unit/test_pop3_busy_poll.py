"""When the event loop looks for a client's next command without sleeping, and when it does not."""

import asyncio
import selectors
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from services.pop3d import busy_poll
from services.pop3d.busy_poll import PAUSE, SECONDS, BusyPoll

STEP = SECONDS / 4  # that the clock goes on each time it is looked at


class Selector(selectors.DefaultSelector):
    """Counts how often the event loop does not want to sleep, and says when it does."""

    awake = 0
    asleep: asyncio.Future[None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            self.awake += 1
            return super().select(timeout)
        self.asleep.set_result(None)
        return []


def rounds(*starts: Callable[[], None]) -> list[int]:
    """Return in how many rounds the event loop did not sleep after each of these."""
    selector, counts = Selector(), list[int]()

    async def main() -> None:
        for start in starts:
            selector.awake, selector.asleep = 0, asyncio.get_running_loop().create_future()
            start()
            await selector.asleep
            counts.append(selector.awake)
        selector.asleep = asyncio.get_running_loop().create_future()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(main())
    nothing = counts.pop()  # the loop has such rounds of its own
    return [count - nothing for count in counts]


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += STEP
        return now

    monkeypatch.setattr(busy_poll, "time", SimpleNamespace(monotonic=monotonic))  # the event loop keeps its own


def nothing() -> None:
    pass


def start(poll: BusyPoll) -> Callable[[], None]:
    return lambda: poll.start(busy_poll.time.monotonic())


def test_the_event_loop_stays_awake_for_a_moment_and_then_pauses_as_it_was_of_no_use() -> None:
    poll = BusyPoll(lambda: 0, processors=2)
    counts = rounds(*[start(poll)] * (PAUSE + 2), nothing)
    assert counts[0] == 4
    assert counts[1:-1] == [0] * PAUSE
    assert counts[-1] == 4


def test_a_command_that_comes_in_time_has_it_stay_awake_for_longer() -> None:
    poll = BusyPoll(lambda: 0, processors=2)

    def twice() -> None:
        start(poll)()
        asyncio.get_running_loop().call_soon(start(poll))

    (count,) = rounds(twice, nothing)
    assert 4 < count < 8


def test_it_sleeps_while_threads_are_at_work() -> None:
    jobs = 1
    poll = BusyPoll(lambda: jobs, processors=2)
    assert rounds(start(poll), nothing) == [1]
    jobs = 0
    assert rounds(start(poll), nothing) == [4], "that was no reason to pause"


def test_it_sleeps_where_the_client_needs_the_processor() -> None:
    poll = BusyPoll(lambda: 0, processors=1)
    assert rounds(*[start(poll)] * 3, nothing) == [0, 0, 0]
