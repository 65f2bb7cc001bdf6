"""What the puller counts."""

import logging
from pathlib import Path

from services.http2mbox.tally import Tally
from stubmail import counters
from stubmail.log import event
from stubmail.metrics import Count, Durations, Family, names

_CHECKS = ("nothing", "news", "unknown", "silent")
_PULLS = ("complete", "incomplete", "failed")
_POSTS = ("delivered", "repeated", "held", "dropped", "skipped", "gone")
_SIDES = ("domain", "account", "outbox")

DURATIONS = Durations(
    "stubmail_puller_pull_duration_seconds",
    "How long a pass over one domain's store took, by how it ended",
    "outcome",
    _PULLS,
)
FAMILIES: tuple[Family, ...] = (
    Count("stubmail_puller_rounds", "Rounds over all accounts that were begun", {"": "rounds"}),
    Count(
        "stubmail_puller_checks",
        "UDP checks of a domain, by what they brought",
        {outcome: f"checks {outcome}" for outcome in _CHECKS},
        "outcome",
    ),
    Count(
        "stubmail_puller_pulls",
        "Passes over one domain's store, over HTTP, by how they ended",
        {outcome: f"pulls {outcome}" for outcome in _PULLS},
        "outcome",
    ),
    Count(
        "stubmail_puller_posts",
        "Posts: delivered; delivered before; held; thrown away by order; left alone in a flood; not there any more",
        {outcome: f"posts {outcome}" for outcome in _POSTS},
        "outcome",
    ),
    Count(
        "stubmail_puller_notices",
        "Notices put into maildrops: about mail that is held, about own posts that ended unfetched",
        {about: f"notices {about}" for about in ("held", "own")},
        "about",
    ),
    Count(
        "stubmail_puller_failures",
        "Attempts that failed, by whose trouble it was",
        {side: f"failures {side}" for side in _SIDES},
        "side",
    ),
    DURATIONS,
)
NAMES = names(FAMILIES)

_log = logging.getLogger("http2mbox")


class Counters(counters.Counters):
    """The puller's counters: in memory, or in a directory, where the next process goes on."""

    def __init__(self, directory: Path | None = None) -> None:
        """Begin to count. When there is no room for the file, this process counts for itself: that stops no mail."""
        try:
            super().__init__(NAMES, directory)
        except OSError as error:
            event(_log, "uncounted", level=logging.ERROR, directory=directory, error=error.strerror)
            super().__init__(NAMES)

    def pulled(self, tally: Tally, failed: bool, seconds: float) -> None:
        """Count a pass over a store, which took so long."""
        outcome = "failed" if failed else "complete" if tally.complete else "incomplete"
        self.add(f"pulls {outcome}")
        DURATIONS.observe(self, outcome, seconds)
        for name in _POSTS:
            if number := getattr(tally, name):
                self.add(f"posts {name}", number)
        self.add("notices held", tally.notices)
