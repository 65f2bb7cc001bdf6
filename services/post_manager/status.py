"""What the store tells whoever runs it: whether it is ready, and its metrics (pages of stubmail.admin)."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.post_manager.counters import FAMILIES, Counters
from services.post_manager.storage import damage, gauges, schema
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import StorageError
from stubmail.admin import Answer, Page, Probe, Readiness
from stubmail.errors import Exit
from stubmail.metrics import Gauge, build_info, expose


@dataclass(frozen=True, slots=True)
class Status:
    """One process's view of the store; ``reserve`` in octets, ``started`` in Unix time.

    ``database`` returns it, or raises StorageError as long as it could not be opened; ``file`` is SQLite's.
    """

    database: Callable[[], Database]
    counters: Counters
    incoming: Path
    reserve: int
    accounts: int
    started: float
    file: Path | None = None
    draining: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.time

    @property
    def probes(self) -> dict[str, Probe]:
        """What has to be in order for the store to be ready, by name."""
        return {"running": self._running, "database": self._database, "damage": self._damage, "disk": self._disk}

    @property
    def pages(self) -> dict[str, Page]:
        """The pages to serve."""
        return {"/readyz": Readiness(self.probes), "/metrics": self.metrics}

    def metrics(self) -> Answer:
        """All counters and gauges, as Prometheus reads them; what a dead database knows is left out."""
        body, media_type = expose(self.counters, FAMILIES, self._gauges())
        return Answer(200, body, media_type)

    def _running(self) -> str:
        return "the store is draining: it is about to end" if self.draining() else ""

    def _database(self) -> str:
        try:
            schema.check(self.database())
        except (StorageError, Exit) as error:
            return error.text
        return ""

    def _damage(self) -> str:
        """Look at the file, since a query would find damage only where it happens to go; all processes get to know."""
        if self.file is None:
            return ""
        problem = ""
        try:
            if not damage.is_marked(self.file) and (problem := damage.probe(self.file)):
                damage.mark(self.file, problem)
            problem = damage.told(self.file) or problem
        except OSError:  # it is away, which another probe says
            pass
        return f"{problem}; {damage.CURE}" if problem else ""

    def _disk(self) -> str:
        try:
            free = shutil.disk_usage(self.incoming).free
        except OSError as error:
            return f"{self.incoming}: {error.strerror}"
        if free < self.reserve:
            return f"{free} octets are free, {self.reserve} are to be kept in reserve: nothing is stored"
        return ""

    def _gauges(self) -> list[Gauge]:
        up = not self._database()
        found = [
            *build_info("post_manager", self.started),
            Gauge("stubmail_store_database_up", "Whether the database answers, with the right tables", up),
            Gauge("stubmail_store_read_only", "Whether the database is damaged", bool(self._damage())),
            Gauge("stubmail_store_draining", "Whether the store is about to end", self.draining()),
            Gauge("stubmail_store_accounts", "Accounts that may store posts", self.accounts),
            Gauge("stubmail_store_disk_reserve_bytes", "Octets of the disk that new posts may not take", self.reserve),
        ]
        try:
            disk = shutil.disk_usage(self.incoming)
        except OSError:
            pass
        else:
            found.append(Gauge("stubmail_store_disk_free_bytes", "Octets that are free on the spool's disk", disk.free))
            found.append(Gauge("stubmail_store_disk_size_bytes", "Octets of the spool's disk", disk.total))
        return [*found, *(self._amounts() if up else ())]

    def _amounts(self) -> list[Gauge]:
        try:
            amounts = gauges.measure(self.database(), int(self.clock()))
        except StorageError:
            return []
        return [
            Gauge("stubmail_store_schema_version", "The version of the database's tables", int(schema.VERSION)),
            Gauge("stubmail_store_waiting_posts", "Posts that wait to be fetched", amounts.posts),
            Gauge("stubmail_store_waiting_bytes", "Octets that waiting posts take", amounts.octets),
            Gauge("stubmail_store_sessions", "Sessions that are alive", amounts.sessions),
            Gauge("stubmail_store_cookies", "UDP cookies that are known", amounts.cookies),
        ]
