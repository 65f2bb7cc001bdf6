"""The courier's decisions: what it tries when, what it gives up, whom it tells, and what people order."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from services.smtp2stub import courier as courier_module
from services.smtp2stub.schedule import Schedule
from stubmail.address import Address
from stubmail.errors import PermanentError, TemporaryError
from stubmail.queue import Queue, State
from tests.support.gateway import BOB, CAROL, NOW, Clock, Outside, accept, courier, make_item, make_queue
from tests.support.waiting import eventually

T = TypeVar("T")
DAVE = Address("dave", "delta.example")
LATER = TemporaryError("4.4.3", "DNS is silent")
NEVER = PermanentError("5.1.1", "no such user")


def empty(queue: Queue) -> bool:
    return not queue.messages() and not any((queue.root / "queue").iterdir()) and not queue.arrivals()


def run(work: Callable[[], Awaitable[T]]) -> T:
    return asyncio.run(asyncio.wait_for(work(), 30))  # type: ignore[arg-type]


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return make_queue(tmp_path)


@pytest.fixture
def outside() -> Outside:
    found = Outside()
    found.fates[CAROL.domain] = "relay"
    return found


def test_stub_mail_leaves_without_a_file_of_its_own(queue: Queue, outside: Outside) -> None:
    async def story() -> None:
        accept(queue, make_item(1), make_item(2, BOB, DAVE))
        async with courier(queue, outside, Clock()):
            await eventually(lambda: empty(queue))

    run(story)
    assert sorted(map(str, outside.stored.values())) == ["bob@beta.example", "bob@beta.example", "dave@delta.example"]
    assert outside.attempts == 2


def test_mixed_recipients_each_go_their_way(queue: Queue, outside: Outside) -> None:
    async def story() -> None:
        async with courier(queue, outside, Clock()) as running:
            accept(queue, make_item(1, BOB, CAROL))
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert list(outside.stored.values()) == [BOB]
    assert [address for _, address in outside.relayed] == [CAROL]


def test_what_cannot_leave_now_is_tried_again_when_it_is_due(queue: Queue, outside: Outside) -> None:
    clock = Clock()
    outside.fates[BOB.domain] = LATER

    async def story() -> None:
        accept(queue, make_item(1, BOB, DAVE))
        async with courier(queue, outside, clock) as running:
            await eventually(lambda: queue.filed() and not queue.arrivals() and running.idle)
            item = queue.messages()[0].item
            progress = queue.progress(item)
            assert [outcome.state for outcome in progress.outcomes] == [State.WAITING, State.DONE]
            assert NOW + 4 <= progress.next_try <= NOW + 6
            running.ring()
            assert outside.attempts == 1
            clock.now = NOW + 7
            running.ring()
            await eventually(lambda: queue.progress(item).attempts == 2 and running.idle)
            assert NOW + 15 <= queue.progress(item).next_try <= NOW + 19
            del outside.fates[BOB.domain]
            clock.now = NOW + 20
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert sorted(map(str, outside.stored.values())) == ["bob@beta.example", "dave@delta.example"]
    assert outside.attempts == 3


def test_a_restart_remembers_what_is_done_and_what_is_due(queue: Queue, outside: Outside) -> None:
    clock = Clock()
    outside.fates[BOB.domain] = LATER

    async def first() -> None:
        accept(queue, make_item(1, BOB, CAROL))
        async with courier(queue, outside, clock) as running:
            await eventually(lambda: queue.filed() and running.idle)

    async def second() -> None:
        async with courier(queue, outside, clock) as running:
            assert outside.attempts == 1
            clock.now += 10
            running.ring()
            await eventually(lambda: empty(queue))

    run(first)
    outside.fates[BOB.domain] = "stub"
    run(second)
    assert len(outside.relayed) == 1
    assert list(outside.stored.values()) == [BOB]


def test_a_refusal_is_told_to_the_sender_once(queue: Queue, outside: Outside) -> None:
    outside.fates |= {BOB.domain: NEVER, DAVE.domain: LATER}
    clock = Clock()

    async def story() -> None:
        accept(queue, make_item(1, BOB, Address("bill", BOB.domain), DAVE))
        async with courier(queue, outside, clock) as running:
            await eventually(lambda: queue.filed() and running.idle)
            assert list(outside.notices.values()) == [["bob@beta.example", "bill@beta.example"]]
            outside.fates[DAVE.domain] = NEVER
            clock.now += 60
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert list(outside.notices.values()) == [["bob@beta.example", "bill@beta.example"], ["dave@delta.example"]]
    assert outside.attempts == 2


def test_what_is_too_old_is_tried_once_more_and_given_up(queue: Queue, outside: Outside) -> None:
    outside.fates[BOB.domain] = LATER

    async def story() -> None:
        accept(queue, make_item(1))
        async with courier(queue, outside, Clock(NOW + 1000), Schedule(5, 60, 1000)):
            await eventually(lambda: empty(queue))

    run(story)
    assert outside.attempts == 1
    assert list(outside.notices.values()) == [["bob@beta.example"]]


def test_nobody_is_told_of_the_failure_of_a_notice(queue: Queue, outside: Outside) -> None:
    outside.fates[BOB.domain] = NEVER

    async def story() -> None:
        accept(queue, make_item(1, mail_from=None))
        async with courier(queue, outside, Clock()):
            await eventually(lambda: empty(queue))

    run(story)
    assert outside.notices == {}


def test_a_busy_maildrop_gets_its_notice_later(queue: Queue, outside: Outside) -> None:
    outside.fates[BOB.domain] = NEVER
    outside.busy_maildrop = True
    clock = Clock()

    async def story() -> None:
        accept(queue, make_item(1))
        async with courier(queue, outside, clock) as running:
            await eventually(lambda: queue.filed() and running.idle)
            outside.busy_maildrop = False
            clock.now += 10
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert list(outside.notices.values()) == [["bob@beta.example"]]
    assert outside.attempts == 1


def test_a_failure_that_nobody_can_be_told_of_stays_in_the_queue_on_hold(queue: Queue, outside: Outside) -> None:
    outside.fates[BOB.domain] = NEVER
    outside.no_maildrop = True
    queue_id = make_item(1).id

    async def story() -> None:
        accept(queue, make_item(1))
        async with courier(queue, outside, Clock()) as running:
            await eventually(lambda: queue.orders() == [(queue_id, "hold")])
            outside.no_maildrop = False
            await eventually(lambda: running.idle)
            queue.obey(queue_id, "hold")
            queue.order(queue_id, "retry")
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert list(outside.notices.values()) == [["bob@beta.example"]]


def test_held_mail_stays_and_leaves_when_it_is_released(queue: Queue, outside: Outside) -> None:
    queue_id = make_item(1).id

    async def story() -> None:
        accept(queue, make_item(1))
        queue.order(queue_id, "hold")
        async with courier(queue, outside, Clock()) as running:
            await eventually(lambda: queue.filed() and running.idle)
            assert outside.attempts == 0
        async with courier(queue, outside, Clock()) as running:
            running.ring()
            await eventually(lambda: running.idle)
            assert outside.attempts == 0
            queue.obey(queue_id, "hold")
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert outside.attempts == 1


def test_retry_does_not_wait_for_the_time(queue: Queue, outside: Outside) -> None:
    outside.fates[BOB.domain] = LATER
    queue_id = make_item(1).id

    async def story() -> None:
        accept(queue, make_item(1))
        async with courier(queue, outside, Clock()) as running:
            await eventually(lambda: queue.filed() and running.idle)
            del outside.fates[BOB.domain]
            queue.order(queue_id, "retry")
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert outside.retries == 1
    assert queue.orders() == []


@pytest.mark.parametrize("when", ["new", "waiting"])
def test_dropped_mail_is_gone_and_nobody_is_told(queue: Queue, outside: Outside, when: str) -> None:
    outside.fates[BOB.domain] = LATER
    queue_id = make_item(1).id

    async def story() -> None:
        accept(queue, make_item(1), make_item(2, DAVE))
        if when == "new":
            queue.order(queue_id, "drop")
        async with courier(queue, outside, Clock()) as running:
            if when == "waiting":
                await eventually(lambda: queue.filed() == [queue_id] and running.idle)
                queue.order(queue_id, "drop")
                running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert queue.orders() == []
    assert outside.notices == {}
    assert list(outside.stored.values()) == [DAVE]


def test_a_damaged_file_does_not_stop_the_others(queue: Queue, outside: Outside) -> None:
    async def story() -> None:
        accept(queue, make_item(1))
        (queue.incoming / make_item(1).id).write_bytes(b"rubbish")
        accept(queue, make_item(2, DAVE))
        async with courier(queue, outside, Clock()):
            await eventually(lambda: outside.stored)
            await eventually(lambda: not queue.arrivals())

    run(story)
    assert len(list(queue.incoming.iterdir())) == 1


def test_a_disk_that_is_full_delays_and_loses_nothing(
    queue: Queue, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "FAULT_SECONDS", 0.05)
    full = [True]
    file = Queue.file

    def failing(self: Queue, stored: object) -> object:
        if full[0]:
            raise OSError(28, "No space left on device")
        return file(self, stored)  # type: ignore[arg-type]

    monkeypatch.setattr(Queue, "file", failing)

    async def story() -> None:
        accept(queue, make_item(1, BOB, CAROL))
        async with courier(queue, outside, Clock()):
            await eventually(lambda: outside.attempts >= 2)
            full[0] = False
            await eventually(lambda: empty(queue))

    run(story)
    assert len(outside.relayed) == 1
    assert len(outside.stored) == 1


def test_many_messages_leave_though_few_are_worked_on_at_a_time(
    queue: Queue, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "MAX_ACTIVE", 5)
    monkeypatch.setattr(courier_module, "MAX_RETRIES", 1)

    async def story() -> None:
        for start in range(0, 60, 3):
            accept(queue, *(make_item(start + number) for number in range(3)))
        async with courier(queue, outside, Clock()):
            await eventually(lambda: empty(queue))

    run(story)
    assert len(outside.stored) == 60
