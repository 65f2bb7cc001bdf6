"""How much waits in the queue, and for how long: asked often, so that a file is read once at most."""

from contextlib import suppress
from dataclasses import dataclass

from stubmail.queue.directory import Queue
from stubmail.queue.item import ItemError, accepted_at


@dataclass(frozen=True, slots=True)
class Depth:
    """Messages in ``incoming`` and messages with a file of their own, ``held`` of these by a person's order.

    A message that is being filed counts in both places. ``oldest``: when the oldest was accepted, in Unix time.
    """

    incoming: int
    filed: int
    held: int
    oldest: float | None


class DepthGauge:
    """Measures one queue again and again; files in ``incoming`` never change, so what is in them is remembered."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._records: dict[str, int] = {}  # by file in incoming

    def measure(self) -> Depth:
        """Look at the queue now. Raises OSError when it cannot be read."""
        names = self._queue.arrivals()
        self._records = {name: self._records.get(name) or self._count(name) for name in names}
        filed = self._queue.filed()
        orders = self._queue.orders()
        held = {queue_id for queue_id, order in orders if order == "hold"}.intersection(filed)
        oldest = min((*names[:1], *filed[:1]), default=None)
        return Depth(
            incoming=sum(self._records.values()),
            filed=len(filed),
            held=len(held),
            oldest=None if oldest is None else accepted_at(oldest),
        )

    def _count(self, name: str) -> int:
        with suppress(FileNotFoundError, ItemError):  # gone meanwhile; damaged, which the courier sees to
            return self._queue.count(name)
        return 0
