"""Who has lately been heard of that is not logged in yet: whoever has much to do makes room for them."""

import math

SECONDS = 0.02  # after each word of a stranger's; what is asked for first after a login is among it


class Arrivals:
    """The latest of them; times are seconds of any clock that never goes back."""

    __slots__ = ("_before", "_latest", "_who")

    def __init__(self) -> None:
        self._who = ""
        self._latest = self._before = -math.inf  # the second: of anybody else

    def note(self, who: str, now: float) -> None:
        """Somebody has come, or has said something."""
        if who != self._who:
            self._who, self._before = who, self._latest
        self._latest = now

    def others(self, who: str, now: float) -> bool:
        """Tell whether somebody else is among them."""
        return now < (self._before if who == self._who else self._latest) + SECONDS
