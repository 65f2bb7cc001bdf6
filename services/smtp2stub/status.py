"""What the gateway tells whoever runs it: whether it is ready, and its metrics (pages of stubmail.admin).

Either process answers for both: what they say comes from the spool, where each holds a lock while it runs, and from
counters that they share.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from services.smtp2stub.counters import FAMILIES, Counters
from stubmail.admin import Answer, Page, Probe, Readiness
from stubmail.metrics import Gauge, build_info, expose
from stubmail.queue import Queue
from stubmail.queue.depth import DepthGauge

ROLES = ("receiver", "courier")


@dataclass(frozen=True, slots=True)
class Status:
    """One process's view of the gateway; ``reserve`` in octets; ``draining``: this process is about to end."""

    queue: Queue
    counters: Counters
    reserve: int
    draining: Callable[[], bool]
    clock: Callable[[], float] = time.time
    _depth: DepthGauge = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_depth", DepthGauge(self.queue))

    @property
    def probes(self) -> dict[str, Probe]:
        """What has to be in order for the gateway to be ready, by name."""
        roles: dict[str, Probe] = {role: partial(self._role, role) for role in ROLES}
        return {"running": self._running, **roles, "spool": self._spool}

    @property
    def pages(self) -> dict[str, Page]:
        """The pages to serve."""
        return {"/readyz": Readiness(self.probes), "/metrics": self.metrics}

    def metrics(self) -> Answer:
        """All counters and gauges, as Prometheus reads them; what cannot be measured now is left out."""
        body, media_type = expose(self.counters, FAMILIES, self._gauges())
        return Answer(200, body, media_type)

    def _running(self) -> str:
        return "the gateway is draining: it is about to end" if self.draining() else ""

    def _role(self, role: str) -> str:
        try:
            return "" if self.queue.since(role) is not None else f"no {role} works on {self.queue.root}"
        except OSError as error:
            return f"{self.queue.root}: {error.strerror}"

    def _spool(self) -> str:
        try:
            free = shutil.disk_usage(self.queue.incoming).free
        except OSError as error:
            return f"{self.queue.incoming}: {error.strerror}"
        if free < self.reserve:
            return f"{free} octets are free, {self.reserve} are to be kept in reserve: no mail is accepted"
        return ""

    def _gauges(self) -> Iterator[Gauge]:
        try:
            began = {role: when for role in ROLES if (when := self.queue.since(role)) is not None}
            depth = self._depth.measure()
            disk = shutil.disk_usage(self.queue.root)
        except OSError:
            yield from build_info("smtp2stub", self.clock())[:1]
            return
        yield from build_info("smtp2stub", min(began.values(), default=self.clock()))
        for role in ROLES:
            yield Gauge("stubmail_gateway_up", "Whether the process runs", role in began, {"process": role})
        for place, number in (("incoming", depth.incoming), ("filed", depth.filed)):
            text = "Messages in the queue: in files as they came in, or, tried already, with a file of their own"
            yield Gauge("stubmail_gateway_queue_messages", text, number, {"place": place})
        yield Gauge("stubmail_gateway_queue_held", "Messages that a person's order holds", depth.held)
        age = 0.0 if depth.oldest is None else max(0.0, self.clock() - depth.oldest)
        yield Gauge("stubmail_gateway_queue_oldest_seconds", "Since when the oldest message waits", age)
        yield Gauge("stubmail_gateway_disk_free_bytes", "Octets that are free on the spool's disk", disk.free)
        yield Gauge("stubmail_gateway_disk_size_bytes", "Octets of the spool's disk", disk.total)
        yield Gauge("stubmail_gateway_disk_reserve_bytes", "Octets that new mail may not take", self.reserve)
