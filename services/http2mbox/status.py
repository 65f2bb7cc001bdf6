"""What the puller tells whoever runs it: whether it is ready, and its metrics (pages of stubmail.admin)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from services.http2mbox.accounts import Accounts
from services.http2mbox.counters import FAMILIES, Counters
from services.http2mbox.state import StateError
from stubmail.admin import Answer, Page, Probe, Readiness
from stubmail.errors import Exit, StubmailError
from stubmail.metrics import Gauge, build_info, expose

LATE_SECONDS = 60.0  # beyond the interval, until the next round is missed


@dataclass(slots=True)
class Status:
    """A daemon's view of itself; ``began`` is when the last round began, in the clock's time.

    ``interval`` is in seconds; ``draining``: it is about to end.
    """

    accounts: Accounts
    counters: Counters
    interval: float
    draining: Callable[[], bool]
    clock: Callable[[], float] = time.time
    began: float = 0.0
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.began = self.clock()

    @property
    def probes(self) -> dict[str, Probe]:
        """What has to be in order for the puller to be ready, by name."""
        return {"running": self._running, "rounds": self._rounds, "accounts": self._accounts, "state": self._state}

    @property
    def pages(self) -> dict[str, Page]:
        """The pages to serve."""
        return {"/readyz": Readiness(self.probes), "/metrics": self.metrics}

    def metrics(self) -> Answer:
        """All counters and gauges, as Prometheus reads them; what cannot be measured now is left out."""
        body, media_type = expose(self.counters, FAMILIES, self._gauges())
        return Answer(200, body, media_type)

    def _running(self) -> str:
        return "the puller is draining: it is about to end" if self.draining() else ""

    def _rounds(self) -> str:
        age = self.clock() - self.began
        return f"the last round began {age:.0f} seconds ago" if age > self.interval * 2 + LATE_SECONDS else ""

    def _accounts(self) -> str:
        """One account that cannot be opened does not make the puller unready for the others."""
        if any(True for _ in self.accounts):
            return ""
        failures = list(self.accounts.failures.values())
        return "; ".join(_text(error) for error in failures[:3]) or "there is no account"

    def _state(self) -> str:
        try:
            self.accounts.standings()
        except StateError as error:
            return error.text
        return ""

    def _gauges(self) -> Iterator[Gauge]:
        yield from build_info("http2mbox", self.started)
        for state, number in (("open", sum(1 for _ in self.accounts)), ("failed", len(self.accounts.failures))):
            yield Gauge("stubmail_puller_accounts", "Accounts that mail is pulled for", number, {"state": state})
        yield Gauge("stubmail_puller_round_began_seconds", "When the last round began, in Unix time", self.began)
        try:
            standings = self.accounts.standings()
        except StateError:
            return
        yield Gauge("stubmail_puller_held_posts", "Posts held at their stores", sum(each.held for each in standings))
        strangers = sum(each.strangers for each in standings)
        yield Gauge("stubmail_puller_strangers_posts", "Posts that wait from people not in a keyring", strangers)
        mismatches = sum(each.key_mismatches for each in standings)
        yield Gauge("stubmail_puller_key_mismatches", "Cases of a key other than the keyring's", mismatches)


def _text(error: Exit | StubmailError | OSError) -> str:
    return str(error) if isinstance(error, OSError) else error.text
