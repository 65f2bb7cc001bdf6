"""Whom the sender hears of, as he asked with NOTIFY: failures, delays, success, or nothing at all."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.smtp2stub.schedule import Schedule
from services.smtp2stub.telling import due
from stubmail.address import Address
from stubmail.errors import PermanentError, TemporaryError
from stubmail.queue import SILENT, Item, Outcome, Progress, Queue, State
from tests.support.gateway import ALICE, BOB, CAROL, NOW, Clock, Outside, accept, courier, make_item, make_queue
from tests.support.waiting import eventually

DAVE = Address("dave", "delta.example")
LATER = TemporaryError("4.4.3", "DNS is silent")
NEVER = PermanentError("5.1.1", "no such user")
HOURS = 3600.0
NOTIFIES = ["", "NEVER", "SUCCESS", "FAILURE", "DELAY", "SUCCESS,DELAY", "SUCCESS,FAILURE,DELAY"]


def asking(notify: str, *recipients: Address, mail_from: Address | None = ALICE) -> Item:
    item = make_item(1, *recipients, mail_from=mail_from)
    return replace(item, recipients=tuple(replace(each, notify=notify) for each in item.recipients))


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))  # type: ignore[arg-type]


def empty(queue: Queue) -> bool:
    return not queue.messages() and not any((queue.root / "queue").iterdir()) and not queue.arrivals()


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return make_queue(tmp_path)


@pytest.fixture
def outside() -> Outside:
    found = Outside()
    found.fates[CAROL.domain] = "relay"
    return found


@pytest.mark.parametrize("notify", NOTIFIES)
def test_a_failure_is_told_to_those_who_want_to_hear_of_it(queue: Queue, outside: Outside, notify: str) -> None:
    outside.fates[BOB.domain] = NEVER

    async def story() -> None:
        accept(queue, asking(notify, BOB))
        async with courier(queue, outside, Clock()):
            await eventually(lambda: empty(queue))

    run(story)
    wanted = notify == "" or "FAILURE" in notify
    assert list(outside.notices.values()) == ([["bob@beta.example"]] if wanted else [])


@pytest.mark.parametrize("notify", NOTIFIES)
def test_success_is_told_to_those_who_want_to_hear_of_it(queue: Queue, outside: Outside, notify: str) -> None:
    async def story() -> None:
        accept(queue, asking(notify, BOB, CAROL))
        async with courier(queue, outside, Clock()):
            await eventually(lambda: empty(queue))

    run(story)
    told = ["relayed: bob@beta.example", "relayed: carol@legacy.example"]
    assert list(outside.notices.values()) == ([told] if "SUCCESS" in notify else [])
    assert (len(outside.stored), len(outside.relayed)) == (1, 1)


@pytest.mark.parametrize("notify", NOTIFIES)
def test_a_delay_is_told_once_and_to_those_who_want_to_hear_of_it(queue: Queue, outside: Outside, notify: str) -> None:
    clock = Clock()
    outside.fates[BOB.domain] = LATER

    async def story() -> None:
        item = asking(notify, BOB)
        accept(queue, item)
        async with courier(queue, outside, clock, Schedule(5, HOURS, 48 * HOURS, 4 * HOURS)) as running:
            for attempt, hours in enumerate((0, 2, 5, 7, 9), 1):
                clock.now = NOW + hours * HOURS
                running.ring()
                await eventually(lambda done=attempt: queue.progress(item).attempts == done and running.idle)
                told = [["delayed: bob@beta.example"]] if "DELAY" in notify and hours > 4 else []
                assert list(outside.notices.values()) == told
            outside.fates[BOB.domain] = "stub"
            clock.now = NOW + 12 * HOURS
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert list(outside.stored.values()) == [BOB]


def test_who_was_told_of_a_delay_is_told_of_the_end_as_well(queue: Queue, outside: Outside) -> None:
    clock = Clock(NOW + 5 * HOURS)
    outside.fates |= {BOB.domain: [LATER, NEVER], DAVE.domain: [LATER, "stub"]}

    async def story() -> None:
        item = asking("SUCCESS,FAILURE,DELAY", BOB, DAVE)
        accept(queue, item)
        async with courier(queue, outside, clock) as running:
            await eventually(lambda: queue.progress(item).attempts == 1 and running.idle)
            clock.now += HOURS
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert list(outside.notices.values()) == [
        ["delayed: bob@beta.example", "delayed: dave@delta.example"],
        ["bob@beta.example", "relayed: dave@delta.example"],
    ]


def test_a_sender_without_a_maildrop_does_not_keep_mail_from_leaving(queue: Queue, outside: Outside) -> None:
    clock = Clock(NOW + 5 * HOURS)
    outside.no_maildrop = True
    outside.fates[BOB.domain] = [LATER, "stub"]

    async def story() -> None:
        item = asking("SUCCESS,DELAY", BOB)
        accept(queue, item)
        async with courier(queue, outside, clock) as running:
            await eventually(lambda: queue.progress(item).attempts == 1 and running.idle)
            assert queue.orders() == []
            clock.now += HOURS
            running.ring()
            await eventually(lambda: empty(queue))

    run(story)
    assert list(outside.stored.values()) == [BOB]


def test_nobody_is_told_of_mail_from_nobody() -> None:
    progress = Progress([Outcome(State.FAILED, "5.1.1", "no")])
    assert not due(asking("FAILURE", BOB, mail_from=None), progress, late=True)


OUTCOMES = st.builds(Outcome, st.sampled_from(State), st.just("5.1.1"), notice=st.sampled_from([SILENT, 0, 1]))


@given(st.lists(st.tuples(st.sampled_from(NOTIFIES), OUTCOMES), min_size=1, max_size=6), st.booleans())
def test_what_is_noted_is_not_due_again(recipients: list[tuple[str, Outcome]], late: bool) -> None:
    item = make_item(1, *[BOB] * len(recipients))
    wishes = zip(item.recipients, recipients, strict=True)
    item = replace(item, recipients=tuple(replace(recipient, notify=notify) for recipient, (notify, _) in wishes))
    progress = Progress([outcome for _, outcome in recipients], notices=1)
    news = due(item, progress, late=late)
    news.note(progress)
    assert not due(item, progress, late=late)
    assert all(recipients[index][0] != "NEVER" for index in (*news.ended, *news.delayed))
    assert all(progress.outcomes[index].notice == 2 for index in news.ended)
