"""The memory of domains that have offered stub mail: whoever takes their DNS records away does not get their mail.

One empty file for each domain, so that a person can look; its time says when the domain was last seen to offer stub
mail. The number of domains is bounded. When there is no more room, those go that have not been seen for more than a
year; if there are none, new domains are not remembered. So nobody can have an old acquaintance forgotten by making
the gateway write to many new ones.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from stubmail.errors import one_line
from stubmail.log import event
from stubmail.spool import remove_durably, write_durably

DIRECTORY = "domains"  # in the spool
MAX_DOMAINS = 100_000
FORGOTTEN_AFTER = 400 * 86_400.0  # seconds without being seen, and only when there is no room
NOTED_EVERY = 86_400.0  # seconds; how exactly the time of the last sight is kept
FULL_SECONDS = 3600.0  # for which a memory without room is not searched again

_log = logging.getLogger("smtp2stub.courier")


class KnownDomains:
    """Domains by name, A-labels in lower case; safe to use from several threads, and beside other processes."""

    def __init__(self, directory: Path, *, limit: int = MAX_DOMAINS, clock: Callable[[], float] = time.time) -> None:
        """Use ``directory``, which is made when the first domain is remembered."""
        self._directory = directory
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._count: int | None = None
        self._full_until = 0.0

    def __contains__(self, domain: str) -> bool:
        return self._seen(domain) is not None

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Yield each domain and when it was last seen to offer stub mail, in Unix time."""
        with suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.startswith("."):  # being written, or left by a crash
                    continue
                with suppress(FileNotFoundError):
                    yield entry.name, entry.stat().st_mtime

    def remember(self, domain: str) -> bool:
        """Note durably that a domain offers stub mail; False when there is no room for one more. Raises OSError."""
        seen = self._seen(domain)
        now = self._clock()
        if seen is not None and abs(now - seen) < NOTED_EVERY:
            return True
        with self._lock:
            if seen is not None:
                with suppress(FileNotFoundError):
                    os.utime(self._directory / domain, (now, now))
                    return True
            if domain in self:
                return True
            if not self._has_room(now):
                event(_log, "refused", level=logging.ERROR, domain=domain, reason="no room to remember another domain")
                return False
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(self._directory / domain, b"")
            os.utime(self._directory / domain, (now, now))
            self._count = (self._count or 0) + 1
            return True

    def forget(self, domain: str) -> bool:
        """Let mail for a domain go another way again when its records are gone; False when it was not remembered."""
        if domain not in self:
            return False
        remove_durably(self._directory / domain)
        return True

    def _seen(self, domain: str) -> float | None:
        try:
            return (self._directory / domain).stat().st_mtime
        except FileNotFoundError:
            return None

    def _has_room(self, now: float) -> bool:
        if self._count is not None and self._count < self._limit:
            return True
        if now < self._full_until:
            return False
        known = list(self)
        old = [domain for domain, seen in known if now - seen > FORGOTTEN_AFTER] if len(known) >= self._limit else []
        for domain in old:
            (self._directory / domain).unlink(missing_ok=True)
            event(_log, "forgotten", domain=one_line(domain))
        self._count = len(known) - len(old)
        if self._count < self._limit:
            return True
        self._full_until = now + FULL_SECONDS
        return False
