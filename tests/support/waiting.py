"""Waiting without sleeping blindly: a condition is polled until it holds or its time is over.

It is looked at soon again, and then less and less often: that is work, too, and others need the processor for theirs.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SOON, LATER = 0.005, 0.05  # seconds between two looks, first and last
MORE = 1.2  # times as many from one to the next


def wait_until(condition: Callable[[], T], seconds: float = 30.0, what: str = "the condition") -> T:
    """Return the first true value of ``condition``; AssertionError when there was none within ``seconds``."""
    deadline, pause = time.monotonic() + seconds, SOON
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
        time.sleep(pause)
        pause = min(MORE * pause, LATER)
    return value


async def eventually(condition: Callable[[], T], seconds: float = 30.0, what: str = "the condition") -> T:
    """As wait_until, while the event loop goes on."""
    deadline, pause = time.monotonic() + seconds, SOON
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
        await asyncio.sleep(pause)
        pause = min(MORE * pause, LATER)
    return value
