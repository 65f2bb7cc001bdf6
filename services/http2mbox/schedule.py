"""When to ask whom: jittered intervals, backing off from what fails, and whether a check's answer is news. Sans-IO."""

import random

from stubmail.cookies import Seen
from stubmail.datagram import Waiting

JITTER = 0.1  # of the interval, either way: many pullers must not fall into step
FIRST_DELAY = 1.0  # seconds
LONGEST_DELAY = 900.0
FIRST_SILENCE = 5.0
LONGEST_SILENCE = 300.0


class Backoff:
    """How long to leave something alone that fails: twice as long each time, up to ``longest`` seconds, jittered."""

    def __init__(self, rng: random.Random, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY) -> None:
        self._rng = rng
        self._first = first
        self._longest = longest
        self.failures = 0
        self._until = 0.0

    def ready(self, now: float) -> bool:
        """Whether it may be tried again; ``now`` is in seconds of a clock that never goes back."""
        return now >= self._until

    def failed(self, now: float) -> float:
        """Note a failure and return for how many seconds nothing is to be tried."""
        delay = min(self._longest, self._first * 2.0 ** min(self.failures, 30))
        delay *= self._rng.uniform(0.75, 1.25)
        self.failures += 1
        self._until = now + delay
        return delay

    def succeeded(self) -> None:
        """Forget all failures."""
        self.failures = 0
        self._until = 0.0


def worth_checking(seen: Seen | None, senders: str, now: float, period: float) -> bool:
    """Whether a check by UDP can spare a listing: the last one was complete, of the same senders, and not long ago.

    ``now`` is Unix time, ``period`` the seconds between full checks; a clock that was set back ends the wait as well.
    """
    return seen is not None and seen.senders == senders and now < seen.until <= now + 2 * period


def is_news(seen: Seen, answer: Waiting) -> bool:
    """Whether an answer to a check calls for a listing (protocol.md §6.2)."""
    return answer.count > 0 and answer.serial > seen.serial


def next_full_check(now: float, period: float, rng: random.Random) -> float:
    """Return when to list again in any case; spread, so that not all domains' turns come at once."""
    return now + period * rng.uniform(1 - JITTER, 1 + JITTER)


def next_round(interval: float, rng: random.Random) -> float:
    """Return the seconds to wait before the next round."""
    return interval * rng.uniform(1 - JITTER, 1 + JITTER)
