"""What the gateway counts, in both its processes."""

import logging
from pathlib import Path

from stubmail import counters
from stubmail.log import event
from stubmail.metrics import Count, Counts, Durations, Family, names

ROUTES = ("stub", "smarthost")
NO_ROUTE = "none"  # what failed, or waits, before a route was found
OUTCOMES = ("sent", "deferred", "failed")

OTHER = "other"
_REASONS = {  # by the enhanced codes of replies (RFC 3463) that the receiver gives
    "4.3.1": "storage",
    "4.3.2": "draining",
    "4.4.2": "timeout",
    "4.5.3": "recipients",
    "4.7.0": "rate",
    "5.1.3": "address",
    "5.1.7": "address",
    "5.3.4": "size",
    "5.5.1": "protocol",
    "5.5.2": "protocol",
    "5.5.4": "protocol",
    "5.5.6": "protocol",
    "5.6.0": "content",
    "5.6.7": "address",
    "5.7.0": "login",
    "5.7.1": "sender",
    "5.7.8": "login",
    "5.7.11": "login",
}
REASONS = (*sorted(set(_REASONS.values())), OTHER)

DURATIONS = Durations(
    "stubmail_gateway_delivery_seconds",
    "How long after its acceptance a message reached a recipient's store or the smarthost",
    "route",
    ROUTES,
    (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0),
)
FAMILIES: tuple[Family, ...] = (
    Count(
        "stubmail_gateway_connections",
        "SMTP connections, by what became of them at their beginning",
        {outcome: f"connections {outcome}" for outcome in ("accepted", "refused")},
        "outcome",
    ),
    Count(
        "stubmail_gateway_tls_sessions",
        "Connections that went over to TLS, or began with it",
        {kind: f"tls {kind}" for kind in ("starttls", "implicit")},
        "kind",
    ),
    Count(
        "stubmail_gateway_logins",
        "Attempts to log in, by outcome",
        {outcome: f"logins {outcome}" for outcome in ("accepted", "refused")},
        "outcome",
    ),
    Count(
        "stubmail_gateway_refusals",
        "Replies of the 4xx and 5xx kinds, by reason",
        {reason: f"refused {reason}" for reason in REASONS},
        "reason",
    ),
    Count(
        "stubmail_gateway_messages",
        "Messages: accepted; gone, each recipient served or given up; dropped by order",
        {state: f"messages {state}" for state in ("accepted", "finished", "dropped")},
        "state",
    ),
    Count("stubmail_gateway_accepted_bytes", "Octets of accepted messages", {"": "octets accepted"}),
    Counts(
        "stubmail_gateway_recipients",
        "Attempts to deliver to one recipient, by route and outcome",
        ("route", "outcome"),
        {(route, outcome): f"{route} {outcome}" for route in (*ROUTES, NO_ROUTE) for outcome in OUTCOMES},
    ),
    Count(
        "stubmail_gateway_keys",
        "Correspondents' keys: imported; renewed or revoked; another one seen at the key server, and not used",
        {happening: f"keys {happening}" for happening in ("imported", "updated", "changed")},
        "event",
    ),
    Count("stubmail_gateway_notices", "Notices (DSNs) put into senders' maildrops", {"": "notices"}),
    Count("stubmail_gateway_faults", "Times that work on a message broke off for a fault of our own", {"": "faults"}),
    DURATIONS,
)
NAMES = names(FAMILIES)

_log = logging.getLogger("smtp2stub")


class Counters(counters.Counters):
    """The gateway's counters: in memory, or for both processes, which name the same directory."""

    def __init__(self, directory: Path | None = None) -> None:
        """Begin to count. When there is no room for the file, this process counts for itself: that stops no mail."""
        try:
            super().__init__(NAMES, directory)
        except OSError as error:
            event(_log, "uncounted", level=logging.ERROR, directory=directory, error=error.strerror)
            super().__init__(NAMES)

    def replied(self, reply: str) -> None:
        """Count what a reply says: logins, and refusals by reason."""
        code, _, text = reply.partition(" ")
        if code == "235":
            self.add("logins accepted")
        elif code == "535":
            self.add("logins refused")
        if code[:1] in ("4", "5"):
            self.add(f"refused {_REASONS.get(text.partition(' ')[0], OTHER)}")

    def tried(self, route: str, outcome: str, age: float) -> None:
        """Count an attempt for a recipient, ``age`` seconds after the message was accepted."""
        known = route in ROUTES
        self.add(f"{route if known else NO_ROUTE} {outcome}")
        if outcome == "sent" and known:
            DURATIONS.observe(self, route, age)
