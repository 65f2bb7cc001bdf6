"""Telling connections that a deadline of theirs may have passed."""

import asyncio
from collections.abc import Set
from typing import Protocol


class Waiting(Protocol):
    """Something that has deadlines."""

    due: float
    """When to look after it, by the event loop's clock."""

    def look(self) -> None:
        """Look after it, and say when to do so again."""


class Clock:
    """Looks every so many seconds which of the connections are due: a timer for each would take half a kilobyte."""

    def __init__(self, connections: Set[Waiting], seconds: float) -> None:
        self._connections = connections
        self._seconds = seconds
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Go on, until there are no connections."""
        if self._next is None:
            self._next = asyncio.get_running_loop().call_later(self._seconds, self._tick)

    def _tick(self) -> None:
        self._next = None
        if self._connections:
            self.start()
        now = asyncio.get_running_loop().time()
        for connection in [connection for connection in self._connections if connection.due <= now]:
            connection.look()
