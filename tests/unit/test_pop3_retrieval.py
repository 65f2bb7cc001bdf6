"""Retrievals on the event loop: what is read while the client handles what it got, and what others do meanwhile."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.pop3d import reader as reader_module
from services.pop3d import retrieval as retrieval_module
from services.pop3d.actions import Retrieve
from services.pop3d.ahead import Ahead
from services.pop3d.arrivals import Arrivals
from services.pop3d.busy_poll import SECONDS, BusyPoll
from services.pop3d.host import Host
from services.pop3d.maildir import MaildirLocation
from services.pop3d.maildrop import Maildrop
from services.pop3d.reader import BLOCK, FIRST
from services.pop3d.retrieval import Retrieval
from services.pop3d.wire import retrieved
from tests.support.pop3 import FakeMaildrop

GONE = b"-ERR [SYS/TEMP] The message is not there any more, or not as it was\r\n"


class Threads(ThreadPoolExecutor):
    """Count what they are given to do."""

    given = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given += 1
        return super().submit(*args, **kwargs)


class World:
    """The host, and the client that takes everything at once."""

    id = "s"
    lost = False

    def __init__(self, places: int) -> None:
        self.ahead = Ahead(places)
        self.arrivals = Arrivals()
        self.busy_poll = BusyPoll(lambda: self.jobs)
        self.jobs = 0
        self.mail = Threads(4)
        self.taken = b""
        self.given: list[int] = []  # what had been by the time of each write

    def write(self, out: list[bytes]) -> None:
        self.taken += b"".join(out)
        self.given.append(self.mail.given)

    async def writable(self) -> None:
        pass

    def retrieval(self, maildrop: Maildrop) -> Retrieval:
        return Retrieval(cast(Host, self), self, maildrop)

    async def ask(self, retrieval: Retrieval, *items: Retrieve) -> tuple[bytes, bool]:
        """Return the answer, and whether it had been read ahead."""
        if len(items) == 1 and (reply := retrieval.ready(items[0])):
            return reply, True
        self.taken = b""
        await retrieval.send(items)
        return self.taken, False


class Slow(FakeMaildrop):
    """Many messages; those behind ``until`` cannot be read yet. Fails when two threads use it at a time."""

    def __init__(self, until: int = 1000) -> None:
        super().__init__([b"%d\r\n" % number for number in range(1, 101)])
        self.gate = threading.Event()
        self.until = until
        self.several_calls: list[tuple[int, int]] = []
        self._alone = threading.Lock()

    @contextmanager
    def _use(self, last: int) -> Iterator[None]:
        assert self._alone.acquire(blocking=False), "one at a time"
        assert not self.closed
        assert last <= self.until or self.gate.wait(10)
        self._alone.release()
        yield

    def content(self, number: int) -> Iterator[bytes]:
        with self._use(number):
            yield from super().content(number)

    def several(self, first: int, count: int) -> list[bytes]:
        self.several_calls.append((first, count))
        with self._use(first + count - 1):
            return self.messages[first - 1 : first - 1 + count]


def retr(maildrop: Maildrop, number: int) -> Retrieve:
    return Retrieve(number, None, retrieved(maildrop.octets[number - 1]))


def whole(text: bytes) -> bytes:
    return retrieved(len(text)) + text + b".\r\n"


def run(work: Callable[[World], Awaitable[None]], places: int = 10) -> None:
    async def main() -> None:
        world = World(places)
        with world.mail:
            await work(world)
        assert not world.jobs

    asyncio.run(main())


@pytest.fixture(autouse=True)
def _nothing_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "QUICK", 0.0)


def test_the_next_ones_are_read_while_the_client_handles_these() -> None:
    async def work(world: World) -> None:
        maildrop = Slow(until=FIRST)
        retrieval = world.retrieval(maildrop)
        for number in range(1, FIRST + 1):
            answer, ready = await world.ask(retrieval, retr(maildrop, number))
            assert (answer, ready) == (whole(b"%d\r\n" % number), number > 1)
        assert world.jobs == 1, "the next ones are being read"
        maildrop.gate.set()
        await retrieval.settle()
        assert world.jobs == 0
        for number in range(FIRST + 1, 101):
            answer, ready = await world.ask(retrieval, retr(maildrop, number))
            assert (answer, ready) == (whole(b"%d\r\n" % number), True)
            await retrieval.settle()
        firsts = [first for first, _ in maildrop.several_calls]
        assert firsts == sorted(set(firsts))

    run(work)


def test_what_is_asked_for_meanwhile_is_read_while_the_last_is_on_its_way() -> None:
    async def work(world: World) -> None:
        maildrop = Slow()
        retrieval = world.retrieval(maildrop)
        runs = [[range(3, 6), range(9, 10)], [range(50, 101)]]
        await retrieval.send([range(1, 3)], lambda: runs.pop(0) if runs else [])
        numbers = [1, 2, 3, 4, 5, 9, *range(50, 101)]
        assert world.taken == b"".join(whole(b"%d\r\n" % number) for number in numbers)
        assert world.given == [2, 3, 3]

    run(work)


def test_for_a_client_that_is_gone_nothing_more_is_read() -> None:
    async def work(world: World) -> None:
        maildrop = Slow()
        world.lost = True
        await world.retrieval(maildrop).send([range(1, 3)], lambda: [range(3, 6)])
        assert maildrop.several_calls == [(1, 2)]

    run(work)


def test_for_a_client_that_hangs_up_no_message_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Large(FakeMaildrop):
        def content(self, number: int) -> Iterator[bytes]:
            try:
                yield from super().content(number)
            finally:
                closed.append(number)

    async def work(world: World) -> None:
        async def hang_up() -> None:
            world.lost = True

        monkeypatch.setattr(world, "writable", hang_up)
        retrieval = world.retrieval(Large([b"x" * 10 * BLOCK] * 2, piece=BLOCK))
        await retrieval.send([range(1, 3)])
        assert closed == [1], "at once, not when the collector comes by"
        assert retrieval.failed == set()

    run(work)


@pytest.mark.parametrize(("seconds", "polls"), [(SECONDS / 2, FIRST - 2), (SECONDS * 2, 0)])
def test_for_a_client_that_asks_at_once_the_next_command_is_looked_for_without_sleep(
    monkeypatch: pytest.MonkeyPatch, seconds: float, polls: int
) -> None:
    now = 100.0
    started = []

    async def work(world: World) -> None:
        nonlocal now
        monkeypatch.setattr(reader_module, "QUICK", 10.0)
        monkeypatch.setattr(retrieval_module, "time", SimpleNamespace(monotonic=lambda: now))
        monkeypatch.setattr(world.busy_poll, "start", started.append)
        maildrop = Slow()
        retrieval = world.retrieval(maildrop)
        for number in range(1, FIRST + 1):
            await world.ask(retrieval, retr(maildrop, number))
            now += seconds
        assert len(started) == polls
        await world.ask(retrieval, retr(maildrop, FIRST + 1))
        assert len(started) == polls, "a thread is at work"

    run(work)


async def reading_ahead(world: World) -> tuple[Slow, Retrieval]:
    """Return a maildrop that is being read ahead in a thread, and who does it."""
    maildrop = Slow(until=FIRST)
    retrieval = world.retrieval(maildrop)
    for early in range(1, FIRST + 1):
        await world.ask(retrieval, retr(maildrop, early))
    assert world.jobs
    return maildrop, retrieval


@pytest.mark.parametrize("number", [1, FIRST + 1, 100])
def test_a_message_that_is_not_there_yet_waits_until_reading_ahead_has_ended(number: int) -> None:
    """The maildrop sees that there is one thread at a time."""

    async def work(world: World) -> None:
        maildrop, retrieval = await reading_ahead(world)
        asyncio.get_running_loop().call_soon(maildrop.gate.set)
        assert (await world.ask(retrieval, retr(maildrop, number)))[0] == whole(b"%d\r\n" % number)
        top = Retrieve(number, 0, b"+OK\r\n")
        assert (await world.ask(retrieval, top))[0] == b"+OK\r\n%d\r\n.\r\n" % number
        await retrieval.settle()

    run(work)


def test_what_arrives_after_the_client_was_given_up_is_not_kept() -> None:
    async def work(world: World) -> None:
        maildrop, retrieval = await reading_ahead(world)
        retrieval.rest()
        maildrop.gate.set()
        await retrieval.settle()
        maildrop.messages[FIRST] = b"x\r\n"
        assert await world.ask(retrieval, retr(maildrop, FIRST + 1)) == (whole(b"x\r\n"), False)
        await retrieval.settle()

    run(work)


def test_when_all_places_are_taken_nothing_is_read_ahead() -> None:
    async def work(world: World) -> None:
        maildrops = Slow(), Slow()
        first, second = (world.retrieval(maildrop) for maildrop in maildrops)
        for number in (1, 2, 3):
            for retrieval, maildrop in ((first, maildrops[0]), (second, maildrops[1])):
                answer, ready = await world.ask(retrieval, retr(maildrop, number))
                assert answer == whole(b"%d\r\n" % number)
                assert ready == (retrieval is first and number > 1)
        assert maildrops[1].several_calls == [(1, 1), (2, 1), (3, 1)]
        await first.settle()
        first.rest()
        await world.ask(second, retr(maildrops[1], 4))
        assert (await world.ask(second, retr(maildrops[1], 5)))[1]
        await second.settle()

    run(work, places=1)


def maildir(path: Path, messages: Sequence[bytes]) -> Path:
    for name in ("new", "cur", "tmp"):
        (path / name).mkdir()
    for number, message in enumerate(messages, 1):
        (path / "cur" / f"{number}.x:2,").write_bytes(message)
    return path


@pytest.mark.parametrize("quick", [0.0, 10.0])
@pytest.mark.parametrize("settled", [False, True])
def test_what_others_do_to_a_maildir_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: float, settled: bool
) -> None:
    monkeypatch.setattr(reader_module, "QUICK", quick)
    monkeypatch.setattr("services.pop3d.maildir_sizes.settled", lambda *args: settled)
    count = 4 * FIRST
    path = maildir(tmp_path, [b"%d\n" % number for number in range(1, count + 1)])
    changes: dict[int, Callable[[Path], Any]] = {
        2: lambda file: file.write_bytes(b"is read already\n"),
        3: Path.unlink,
        count - 3: lambda file: file.rename(f"{file}S"),
        count - 2: lambda file: file.write_bytes(b"longer than it was\n"),
        count - 1: Path.unlink,
    }

    async def work(world: World) -> None:
        maildrop = MaildirLocation(path).open()
        retrieval = world.retrieval(maildrop)
        answers = [(await world.ask(retrieval, retr(maildrop, 1)))[0]]
        for number, change in changes.items():
            change(path / "cur" / f"{number}.x:2,")
        for number in range(2, count + 1):
            answers.append((await world.ask(retrieval, retr(maildrop, number)))[0])
            await retrieval.settle()
        for number, answer in enumerate(answers, 1):
            assert answer == (GONE if number in (count - 2, count - 1) else whole(b"%d\r\n" % number))
        assert retrieval.failed == {count - 2, count - 1}
        maildrop.close()

    run(work)
