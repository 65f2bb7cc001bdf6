"""What the server tells whoever runs it: whether it is ready, and its metrics (pages of stubmail.admin)."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import Protocol

from services.pop3d.counting import FAMILIES
from stubmail.admin import Answer, Page, Probe, Readiness
from stubmail.counters import Counters
from stubmail.metrics import Gauge, build_info, expose

LOOP_SECONDS = 2.0  # within which the event loop has to answer; above it clients wait as long
DAY = 86_400


class Served(Protocol):
    """What is asked about the server, in another thread than its own."""

    counters: Counters
    jobs: int
    draining: bool

    @property
    def sessions(self) -> int:
        """How many there are."""

    @property
    def strangers(self) -> int:
        """How many of them have not logged in."""

    @property
    def certificate_expires(self) -> float:
        """When, in Unix time; infinite when there is no certificate."""

    @property
    def not_reloaded(self) -> str:
        """What could not be read again at the last SIGHUP, and why; an empty text when all could."""


@dataclass(frozen=True, slots=True)
class Status:
    """The server as seen from outside of its event ``loop``; ``started`` and ``clock`` in Unix time."""

    server: Served
    loop: asyncio.AbstractEventLoop
    started: float
    clock: Callable[[], float] = time.time

    @property
    def probes(self) -> dict[str, Probe]:
        """What has to be in order for the server to be ready, by name."""
        return {
            "running": self._running,
            "loop": self._loop,
            "certificate": self._certificate,
            "configuration": lambda: self.server.not_reloaded,
        }

    @property
    def pages(self) -> dict[str, Page]:
        """The pages to serve."""
        return {"/readyz": Readiness(self.probes), "/metrics": self.metrics}

    def metrics(self) -> Answer:
        """All counters and gauges, as Prometheus reads them."""
        body, media_type = expose(self.server.counters, FAMILIES, self._gauges())
        return Answer(200, body, media_type)

    def _running(self) -> str:
        return "the server is draining: it is about to end" if self.server.draining else ""

    def _loop(self) -> str:
        """Have the event loop do something, as every client does."""
        try:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result(LOOP_SECONDS)
        except Late:
            return f"the event loop did not answer within {LOOP_SECONDS:.0f} seconds"
        return ""

    def _certificate(self) -> str:
        left = self.server.certificate_expires - self.clock()
        return "" if left > 0 else f"the certificate expired {-left / DAY:.0f} days ago"

    def _gauges(self) -> list[Gauge]:
        server = self.server
        gauges = [
            *build_info("pop3d", self.started),
            Gauge("stubmail_pop3_open_sessions", "Sessions that are open", server.sessions),
            Gauge("stubmail_pop3_open_strangers", "Those whose client has not logged in", server.strangers),
            Gauge("stubmail_pop3_busy_sessions", "Sessions that wait for a password check or a maildrop", server.jobs),
            Gauge("stubmail_pop3_draining", "Whether the server is about to end", server.draining),
        ]
        expires = server.certificate_expires
        if expires != float("inf"):
            gauges.append(Gauge("stubmail_pop3_certificate_expires_seconds", "When it does, in Unix time", expires))
        return gauges
