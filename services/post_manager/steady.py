"""Whether the clock can be trusted with what cannot be undone. Sans-IO: both clocks' times come in.

A clock may be wrong by years when a machine starts, and is set right minutes later; it may jump and jump back. What is
deleted meanwhile because its time seems to be over is gone, and a nonce that is forgotten too early is good again.
"""

from stubmail.request import CLOCK_SKEW, NONCE_LIFETIME

TOLERANCE = 5.0  # seconds between two looks; a clock that is being adjusted gradually stays far below that
PROBATION = NONCE_LIFETIME  # seconds for which a clock has to go evenly


class Steadiness:
    """Compares the clock with one that nobody can set (CLOCK_MONOTONIC), look by look."""

    def __init__(self, last: int) -> None:
        """``last``: when something was done that is done every minute, in Unix time; 0 for never."""
        self._last = last
        self._offset: float | None = None
        self._since = 0.0

    def look(self, now: float, monotonic: float) -> bool:
        """Tell whether the clock is known to have gone evenly for PROBATION seconds, or never gave cause for doubt."""
        offset = now - monotonic
        if self._offset is None:
            # Nothing was done for long: the clock jumped, or this was off, and may have started with a wrong clock.
            doubtful = self._last and not -CLOCK_SKEW <= now - self._last <= PROBATION
            self._since = monotonic if doubtful else monotonic - PROBATION
        elif abs(offset - self._offset) > TOLERANCE:
            self._since = monotonic
        self._offset = offset
        return monotonic - self._since >= PROBATION
