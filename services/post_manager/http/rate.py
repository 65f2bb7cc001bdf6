"""How often one peer may ask: token buckets in memory, bounded in number. Sans-IO: time comes in."""

import math
from collections import OrderedDict

BURST_SECONDS = 10  # how much of its rate a bucket holds
MAX_BUCKETS = 20_000


class Buckets:
    """One token bucket for each key, ``rate`` tokens a second unless the call says otherwise; 0 means no limit.

    When there are too many keys the one that asked longest ago is forgotten: its bucket is the fullest. Not for
    several threads at once without a lock around it.
    """

    def __init__(self, rate: float, most: int = MAX_BUCKETS) -> None:
        self._rate = rate
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at which time

    def __len__(self) -> int:
        return len(self._buckets)

    def delay(self, key: str, now: float, rate: float | None = None) -> int:
        """Return how many seconds from ``now`` a token is there for a key: 0 when it may ask."""
        rate = self._rate if rate is None else rate
        if not rate:
            return 0
        tokens = self._tokens(key, now, rate)
        return 0 if tokens >= 1 else math.ceil((1 - tokens) / rate)

    def take(self, key: str, now: float, rate: float | None = None) -> None:
        """Take a token of a key's, if there is one."""
        rate = self._rate if rate is None else rate
        if not rate:
            return
        self._buckets[key] = (max(0.0, self._tokens(key, now, rate) - 1), now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)

    def _tokens(self, key: str, now: float, rate: float) -> float:
        capacity = max(1.0, rate * BURST_SECONDS)
        tokens, then = self._buckets.get(key, (capacity, now))
        if now < then:  # the clock was set back: it fills from here on
            self._buckets[key] = tokens, now
        return min(capacity, tokens + max(0.0, now - then) * rate)
