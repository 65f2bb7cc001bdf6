"""Who holds messages in memory that were read ahead: not everybody, so that many clients do not take much of it."""

from collections import OrderedDict
from typing import Protocol

PLACES = 128  # sessions, each with reader.AHEAD octets at most
SLOW = 1.0  # seconds after which a holder that has read no more makes room for another


class Holder(Protocol):
    """A session's side of it."""

    def rest(self) -> None:
        """Let go of what was read ahead."""


class Ahead:
    """The holders, those who have read most lately last; times are seconds of any clock that never goes back."""

    def __init__(self, places: int = PLACES) -> None:
        self._places = places
        self._holders: OrderedDict[Holder, float] = OrderedDict()

    def enter(self, holder: Holder, now: float) -> bool:
        """Tell whether somebody may read ahead now; who did so long ago makes room.

        A client that is served while all places are taken is served message by message: to take turns in a place would
        have all of them read in vain.
        """
        if holder not in self._holders and len(self._holders) >= self._places:
            oldest, since = next(iter(self._holders.items()))
            if now < since + SLOW:
                return False
            oldest.rest()
            self.leave(oldest)
        self._holders[holder] = now
        self._holders.move_to_end(holder)
        return True

    def has(self, holder: Holder) -> bool:
        """Tell whether somebody may hold what was read ahead."""
        return holder in self._holders

    def leave(self, holder: Holder) -> None:
        """Note that somebody holds nothing."""
        self._holders.pop(holder, None)
