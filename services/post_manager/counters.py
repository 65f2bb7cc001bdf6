"""What the store counts, in all its processes; every refusal has a counter of its own (protocol.md §4.3)."""

import logging
from pathlib import Path

from stubmail import counters
from stubmail.log import event
from stubmail.metrics import Count, Durations, Family, names
from stubmail.request import OPERATIONS, STATUS

REFUSED = "refused"  # what requests that are refused count as, among the operations
HTTP, FAILED = "http", "failed"  # what is no HTTP request, and what ended with an error

# The names: "refused mac", "store answered", "checks unknown", …; zero from the start, not absent.
_OPERATIONS = sorted(OPERATIONS)
_POST_REFUSALS = ("too-large", "quota", "id")  # protocol.md §5.2
_CHECKS = ("answered", "unknown", "malformed", "forged", "unsent", "dropped")

DURATIONS = Durations(
    "stubmail_store_request_duration_seconds",
    "How long requests took, to the last octet of the answer",
    "op",
    (*_OPERATIONS, REFUSED),
)
FAMILIES: tuple[Family, ...] = (
    Count(
        "stubmail_store_requests",
        "Requests that were answered, by operation",
        {op: f"{op} answered" for op in _OPERATIONS},
        "op",
    ),
    Count(
        "stubmail_store_refusals",
        "Requests that were refused, by the code of protocol.md 4.4, or as they were no HTTP requests, or failed",
        {code: f"refused {code}" for code in (*STATUS, HTTP, FAILED)},
        "code",
    ),
    DURATIONS,
    Count("stubmail_store_received_bytes", "Octets of request bodies that were read", {"": "octets received"}),
    Count("stubmail_store_sent_bytes", "Octets of answers", {"": "octets sent"}),
    Count("stubmail_store_fetches_broken_off", "Answers to a fetch that were not completed", {"": "fetch broken off"}),
    Count(
        "stubmail_store_posts",
        "Posts that were stored, and what became of them",
        {state: f"posts {state}" for state in ("stored", "fetched", "expired", "withdrawn")},
        "state",
    ),
    Count(
        "stubmail_store_posts_refused",
        "Posts of answered requests that were refused, by the code of protocol.md 5.2",
        {code: f"posts refused {code}" for code in _POST_REFUSALS},
        "code",
    ),
    Count(
        "stubmail_store_checks",
        "UDP checks, by outcome",
        {outcome: f"checks {outcome}" for outcome in _CHECKS},
        "outcome",
    ),
    Count("stubmail_store_tokens", "Tokens that were given over UDP (protocol.md 6.6)", {"": "tokens given"}),
)
NAMES = names(FAMILIES)

_log = logging.getLogger("post_manager")


class Counters(counters.Counters):
    """The store's counters: in memory, or for all processes that name the same directory."""

    def __init__(self, directory: Path | None = None) -> None:
        """Begin to count. When there is no room for the file, this process counts for itself: that stops no mail."""
        try:
            super().__init__(NAMES, directory)
        except OSError as error:
            event(_log, "uncounted", level=logging.ERROR, directory=directory, error=error.strerror)
            super().__init__(NAMES)

    def snapshot(self) -> dict[str, int]:
        """As ever, without the durations: a log line wants to be read."""
        hidden = {name.replace(" ", "_") for name in DURATIONS.names}
        return {name: number for name, number in super().snapshot().items() if name not in hidden}
