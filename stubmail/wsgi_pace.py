"""When the next batch of requests begins (docs/decisions/0040). Sans-IO: time is passed in, in seconds."""

MOST = 4  # batches that are served at a time
SLOW_SECONDS = 0.05  # after which a batch, whatever it waits for, does not keep the next one waiting
LINGER_SECONDS = 0.001  # for how long a batch waits for those that were just answered, and may ask again


class Pace:
    """One batch after the other, as large as those who ask again at once make it; but nobody waits for long."""

    def __init__(self) -> None:
        self._running: dict[int, float] = {}  # batches by number, since when
        self._number = 0
        self._expected = 0  # requests that the next batch may have
        self._lingers_until = 0.0

    def may_begin(self, waiting: int, now: float) -> bool:
        """Tell whether a batch begins with the ``waiting`` requests that there are."""
        if not waiting:
            return False
        if self._running:
            return len(self._running) < MOST and now - max(self._running.values()) > SLOW_SECONDS
        self._lingers_until = self._lingers_until or now + LINGER_SECONDS
        return waiting >= self._expected or now >= self._lingers_until

    def patience(self, waiting: int) -> float:
        """Return after how many seconds that has to be asked again, though nothing new has come."""
        if not waiting:
            return float("inf")
        return SLOW_SECONDS if self._running else LINGER_SECONDS

    def began(self, now: float) -> int:
        """A batch begins; return its number."""
        self._number += 1
        self._running[self._number] = now
        self._lingers_until = 0.0
        return self._number

    def ended(self, number: int, answered: int, waiting: int) -> None:
        """A batch has ended, with so many answers; those who got them are expected again, beside those who wait."""
        del self._running[number]
        self._expected = answered + waiting
