"""What happened how often since this process started; every refusal has a counter of its own (protocol.md §4.3)."""

import threading
from collections import Counter


class Counters:
    """Numbers by name, for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._numbers[name] += number

    def __getitem__(self, name: str) -> int:
        return self._numbers[name]

    def snapshot(self) -> dict[str, int]:
        """Return all numbers as they are now, with names that a log line can have."""
        with self._lock:
            return {name.replace(" ", "_"): number for name, number in sorted(self._numbers.items())}
