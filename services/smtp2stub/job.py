"""One message in the courier's hands: what became of its recipients, in memory at first, on disk once it is filed."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from stubmail.queue import Item, Outcome, Progress, State, Stored


class Keeper(Protocol):
    """Who puts a job's message and progress on disk: the courier."""

    async def file(self, job: "Job") -> None: ...

    async def save(self, job: "Job") -> None: ...


class Job:
    """A message being worked on. ``filed``: it has its own file, and its progress is kept beside it."""

    def __init__(self, keeper: Keeper, stored: Stored, progress: Progress, *, filed: bool) -> None:
        self._keeper = keeper
        self.stored = stored
        self.progress = progress
        self.filed = filed
        self.saving = asyncio.Lock()  # a later state of the progress must not be overwritten by an earlier one

    @property
    def item(self) -> Item:
        """The message's envelope."""
        return self.stored.item

    async def file(self) -> None:
        """Have progress kept from now on: called before anything that must not happen twice."""
        if not self.filed:
            await self._keeper.file(self)

    async def record(self, outcomes: Mapping[int, Outcome]) -> None:
        """Note what became of some recipients, by index; when it is final and the message is filed, durably."""
        for index, outcome in outcomes.items():
            self.progress.outcomes[index] = outcome
        if self.filed and any(outcome.state is not State.WAITING for outcome in outcomes.values()):
            await self._keeper.save(self)
