"""When a message that could not leave is tried again, when it is late, and when it is given up. Sans-IO."""

import random
from dataclasses import dataclass

JITTER = 0.2  # of the delay, either way: what failed together need not come back together


@dataclass(frozen=True, slots=True)
class Schedule:
    """``first`` and ``longest`` delay and ``lifetime`` of a message, all in seconds.

    ``warning``: the age at which senders who want that are told of the delay; 0 for never.
    """

    first: float = 5.0
    longest: float = 3600.0
    lifetime: float = 5 * 86_400.0
    warning: float = 4 * 3600.0

    def next_try(self, attempts: int, accepted: float, now: float, rng: random.Random) -> float:
        """Return when to try again after so many attempts (1 or more): the delay doubles up to the longest.

        The last try falls on the end of the lifetime, if it has not passed.
        """
        delay = min(self.longest, self.first * 2.0 ** min(attempts - 1, 64))
        then = now + delay * rng.uniform(1 - JITTER, 1 + JITTER)
        end = accepted + self.lifetime
        return end if now < end < then else then

    def expired(self, accepted: float, now: float) -> bool:
        """Tell whether a message accepted at that time has had its time (RFC 5321 §4.5.4.1)."""
        return now >= accepted + self.lifetime

    def late(self, accepted: float, now: float) -> bool:
        """Tell whether a message accepted at that time has waited so long that its sender may want to know."""
        return self.warning > 0 and now >= accepted + self.warning
