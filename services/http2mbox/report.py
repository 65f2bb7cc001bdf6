"""What came of a run: the counts, the one line that sums them up, and the exit status that scripts rely on."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.http2mbox.outbox import Told
from services.http2mbox.state import Standing
from services.http2mbox.tally import Tally

NOTHING_NEW = 1


@dataclass(slots=True)
class Report:
    """Counts of one run or, in a daemon, since its start."""

    delivered: int = 0  # notices included, as they are mail too
    waiting: int = 0
    notices: int = 0
    domains: set[str] = field(default_factory=set)  # that offer stub mail and were asked
    failed: set[str] = field(default_factory=set)  # domains and accounts with which something went wrong
    checks: int = 0  # domains where the answer to a UDP check was enough
    listings: int = 0  # domains that were asked over HTTP

    def add(self, tally: Tally) -> None:
        """Count what one pull did."""
        self.listings += 1
        self.delivered += tally.delivered + tally.notices
        self.notices += tally.notices
        self.waiting += tally.waiting

    def add_notices(self, told: Told) -> None:
        """Count what one look into an outbox brought."""
        self.notices += told.delivered + told.waiting
        self.delivered += told.delivered
        self.waiting += told.waiting

    def summary(self, standings: Iterable[Standing], *, dry_run: bool = False) -> str:
        """Return the line that ends a run. Held and strangers' posts are those that wait now, whenever they came."""
        standing = _total(standings)
        counts: dict[str, int] = {"waiting" if dry_run else "delivered": self.waiting if dry_run else self.delivered}
        counts |= {"held": standing.held, "strangers": standing.strangers, "domains": len(self.domains)}
        if self.notices:
            counts["notices"] = self.notices
        if standing.key_mismatches:
            counts["key_mismatches"] = standing.key_mismatches
        if self.failed:
            counts["failed"] = len(self.failed)
        return " ".join(("listed" if dry_run else "pulled", *(f"{name}={count}" for name, count in counts.items())))

    def status(self, standings: Iterable[Standing], *, dry_run: bool = False) -> int:
        """Return the exit status of ``--once``: what needs a person comes first, then what another try may mend."""
        if _total(standings).key_mismatches:
            return os.EX_NOPERM
        if self.failed:
            return os.EX_TEMPFAIL
        return os.EX_OK if (self.waiting if dry_run else self.delivered) else NOTHING_NEW


def _total(standings: Iterable[Standing]) -> Standing:
    held = strangers = mismatches = 0
    for standing in standings:
        held += standing.held
        strangers += standing.strangers
        mismatches += standing.key_mismatches
    return Standing(held, strangers, mismatches)
