"""Messages become durable before they count as accepted, and together when they come together."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.smtp2stub.intake import MAX_TOGETHER, SMALL, Intake
from stubmail.errors import TemporaryError
from stubmail.queue import Bell, Item, Queue
from tests.support.gateway import MESSAGE, make_item, make_queue


class SlowQueue(Queue):
    """A queue whose disk works only while it is allowed to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.create()
        self.allowed = threading.Event()
        self.written: list[str] = []
        self.failure: OSError | None = None

    def accept(self, name: str, records: Iterable[bytes]) -> None:
        assert self.allowed.wait(30)
        if self.failure:
            raise self.failure
        super().accept(name, records)
        self.written.append(name)


@pytest.fixture
def queue(tmp_path: Path) -> SlowQueue:
    return SlowQueue(tmp_path)


@pytest.fixture
def intake(queue: SlowQueue) -> Iterator[Intake]:
    found = Intake(queue)
    yield found
    queue.allowed.set()
    found.close()


def item(number: int, size: int = len(MESSAGE)) -> Item:
    return make_item(number, size=size)


def test_nobody_is_told_before_the_disk_has_it(queue: SlowQueue, intake: Intake) -> None:
    async def story() -> None:
        adding = asyncio.create_task(intake.add(item(1), [MESSAGE]))
        await asyncio.sleep(0.02)
        assert not adding.done()
        queue.allowed.set()
        await asyncio.wait_for(adding, 10)
        assert [stored.content() for stored in queue.messages()] == [MESSAGE]

    asyncio.run(story())


def test_those_that_come_together_share_one_file(queue: SlowQueue, intake: Intake) -> None:
    async def story() -> None:
        adding = [asyncio.create_task(intake.add(item(number), [MESSAGE[:5], MESSAGE[5:]])) for number in range(101)]
        await asyncio.sleep(0.02)
        queue.allowed.set()
        await asyncio.wait_for(asyncio.gather(*adding), 10)

    asyncio.run(story())
    assert len(queue.messages()) == 101
    assert len(queue.written) <= 2 + 101 // MAX_TOGETHER
    assert {stored.content() for stored in queue.messages()} == {MESSAGE}


def test_a_large_message_is_alone_and_in_nobody_s_way(queue: SlowQueue, intake: Intake) -> None:
    large = b"x" * (SMALL + 1)

    async def story() -> None:
        slow = asyncio.create_task(intake.add(item(1, len(large)), (large[:10], large[10:])))
        queue.allowed.set()
        await asyncio.wait_for(intake.add(item(2), [MESSAGE]), 10)
        await asyncio.wait_for(slow, 10)

    asyncio.run(story())
    assert [(stored.alone, stored.item.size) for stored in queue.messages()] == [
        (True, len(large)),
        (True, len(MESSAGE)),
    ]


@pytest.mark.parametrize("size", [len(MESSAGE), SMALL + 1])
def test_a_full_disk_is_told_to_all_that_wait_and_heals(queue: SlowQueue, intake: Intake, size: int) -> None:
    queue.allowed.set()

    async def story() -> None:
        queue.failure = OSError(28, "No space left on device")
        results = await asyncio.gather(
            *(intake.add(item(number, size), [b"x" * size]) for number in range(3)), return_exceptions=True
        )
        assert [getattr(result, "code", "") for result in results] == ["4.3.1"] * 3
        queue.failure = None
        await intake.add(item(4), [MESSAGE])

    asyncio.run(story())
    assert len(queue.messages()) == 1


def test_a_client_that_gave_up_does_not_disturb_the_others(queue: SlowQueue, intake: Intake) -> None:
    async def story() -> None:
        gone = asyncio.create_task(intake.add(item(1), [MESSAGE]))
        stays = asyncio.create_task(intake.add(item(2), [MESSAGE]))
        await asyncio.sleep(0.02)
        gone.cancel()
        queue.allowed.set()
        await asyncio.wait_for(stays, 10)

    asyncio.run(story())
    assert item(2).id in [stored.item.id for stored in queue.messages()]


def test_the_courier_is_told(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    bell = Bell(queue.bell_path)
    intake = Intake(queue)
    heard = asyncio.Event()

    async def story() -> None:
        asyncio.get_running_loop().add_reader(bell, heard.set)
        await intake.add(item(1), [MESSAGE])
        await asyncio.wait_for(heard.wait(), 10)

    try:
        asyncio.run(story())
    finally:
        intake.close()
        bell.close()


def test_what_waits_is_written_before_the_end(tmp_path: Path) -> None:
    queue = SlowQueue(tmp_path)
    intake = Intake(queue)

    async def story() -> None:
        adding = [asyncio.create_task(intake.add(replace(item(number)), [MESSAGE])) for number in range(5)]
        await asyncio.sleep(0)
        queue.allowed.set()
        await asyncio.to_thread(intake.close)
        await asyncio.wait_for(asyncio.gather(*adding), 10)

    asyncio.run(story())
    assert len(queue.messages()) == 5


def test_errors_name_no_paths(queue: SlowQueue, intake: Intake) -> None:
    queue.failure = PermissionError(13, "Permission denied", "/secret/place")
    queue.allowed.set()

    async def story() -> None:
        with pytest.raises(TemporaryError) as caught:
            await intake.add(item(1), [MESSAGE])
        assert "secret" not in caught.value.text

    asyncio.run(story())
