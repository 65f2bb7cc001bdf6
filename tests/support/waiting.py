"""Waiting without sleeping blindly: a condition is polled until it holds or its time is over."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.005


def wait_until(condition: Callable[[], T], seconds: float = 30.0, what: str = "the condition") -> T:
    """Return the first true value of ``condition``; AssertionError when there was none within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
        time.sleep(POLL_SECONDS)
    return value


async def eventually(condition: Callable[[], T], seconds: float = 30.0, what: str = "the condition") -> T:
    """As wait_until, while the event loop goes on."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
        await asyncio.sleep(POLL_SECONDS)
    return value
