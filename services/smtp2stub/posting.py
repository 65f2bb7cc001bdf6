"""The stub route: messages of one account that are ready at the same time are sealed and stored together."""

import asyncio
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field

from services.smtp2stub.account import Account, Parcel

MAX_TOGETHER = 64  # messages
MAX_OCTETS = 8 * 2**20  # of messages worked on together, but for a single larger one
LARGE = 2 * 2**20  # octets; sealing takes about five times the message's size, so large ones go one by one


@dataclass(slots=True)
class _Lane:
    """What waits for one account, and the task that works on it while there is something."""

    waiting: list[tuple[Parcel, "asyncio.Future[None]"]] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None


class Posting:
    """Posts parcels in ``threads``, one batch of an account at a time; the next one gathers meanwhile."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._lanes: dict[Account, _Lane] = {}
        self._large = asyncio.Semaphore(1)

    async def post(self, account: Account, parcel: Parcel) -> None:
        """Seal and store a message; what became of it is in the parcel."""
        lane = self._lanes.setdefault(account, _Lane())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.waiting.append((parcel, done))
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(account, lane))
        await done

    async def _work(self, account: Account, lane: _Lane) -> None:
        while lane.waiting:
            batch = _take(lane.waiting)
            parcels = [parcel for parcel, _ in batch]
            large = any(parcel.stored.item.size > LARGE for parcel in parcels)
            async with self._large if large else nullcontext():
                posted = asyncio.get_running_loop().run_in_executor(self._threads, account.post, parcels)
                await asyncio.wait([posted])
            for _, done in batch:
                if done.done():  # cancelled
                    continue
                if error := posted.exception():
                    done.set_exception(error)
                else:
                    done.set_result(None)
        del self._lanes[account]


def _take(waiting: list[tuple[Parcel, "asyncio.Future[None]"]]) -> list[tuple[Parcel, "asyncio.Future[None]"]]:
    """Take from the front what goes together."""
    octets = 0
    for count, (parcel, _) in enumerate(waiting):
        octets += parcel.stored.item.size
        if count == MAX_TOGETHER or (count and octets > MAX_OCTETS):
            break
    else:
        count = len(waiting)
    batch = waiting[:count]
    del waiting[:count]
    return batch
