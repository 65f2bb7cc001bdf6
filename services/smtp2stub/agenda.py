"""Which filed messages there are and when each is due: the courier's memory of what is on disk. Sans-IO."""

import heapq
from collections.abc import Iterable


class Agenda:
    """Queue ids with the time of their next attempt, some of them held; about 300 octets each."""

    def __init__(self) -> None:
        self._when: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # may hold entries that are not true any more
        self._held: frozenset[str] = frozenset()

    def __contains__(self, queue_id: object) -> bool:
        return queue_id in self._when

    def __len__(self) -> int:
        return len(self._when)

    def put(self, queue_id: str, when: float) -> None:
        """Note, or change, when a message is due; a message being worked on is due ``inf``."""
        self._when[queue_id] = when
        if when != float("inf"):
            heapq.heappush(self._heap, (when, queue_id))

    def remove(self, queue_id: str) -> None:
        """Forget a message."""
        self._when.pop(queue_id, None)

    def is_held(self, queue_id: str) -> bool:
        """Tell whether a person wants it to stay where it is."""
        return queue_id in self._held

    def hold(self, queue_ids: Iterable[str]) -> None:
        """Hold exactly these; the others go on."""
        held = frozenset(queue_ids)
        for queue_id in self._held - held:
            if queue_id in self._when:
                self.put(queue_id, self._when[queue_id])
        self._held = held

    def next(self) -> float | None:
        """Return when the next message is due; None when there is none."""
        while self._heap:
            when, queue_id = self._heap[0]
            if self._when.get(queue_id) == when and queue_id not in self._held:
                return when
            heapq.heappop(self._heap)
        return None

    def pop(self, now: float) -> str | None:
        """Return a message that is due, and mark it as being worked on."""
        when = self.next()
        if when is None or when > now:
            return None
        queue_id = heapq.heappop(self._heap)[1]
        self._when[queue_id] = float("inf")
        return queue_id
