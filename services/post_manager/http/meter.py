"""Counts what requests cost: octets in and out, time, outcomes; and logs what an admin wants to know of each."""

import logging
import time
from collections.abc import Callable

from services.post_manager.counters import DURATIONS, REFUSED, Counters
from stubmail.log import event
from stubmail.request import FETCH

_log = logging.getLogger("post_manager")


class Meter:
    """One request's costs. It begins when the request's header is there, and ends with ``finish``."""

    __slots__ = ("_clock", "_counters", "_started", "op", "peer", "received", "who")

    def __init__(self, counters: Counters, peer: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._counters = counters
        self._clock = clock
        self._started = clock()
        self.peer = peer
        self.op = REFUSED
        self.who = ""  # the fingerprint, once it is proven
        self.received = 0  # octets of the body

    def finish(self, sent: int) -> None:
        """The answer is out, ``sent`` octets of body: count it."""
        seconds = self._clock() - self._started
        DURATIONS.observe(self._counters, self.op, seconds)
        self._counters.add("octets received", self.received)
        self._counters.add("octets sent", sent)
        if self.op != REFUSED:
            self._counters.add(f"{self.op} answered")
        event(
            _log,
            "answered",
            level=logging.INFO if self.op == FETCH else logging.DEBUG,  # the others log what they did
            op=self.op,
            by=self.who or None,
            peer=self.peer,
            octets_in=self.received,
            octets_out=sent,
            seconds=f"{seconds:.4f}",
        )
