"""What the server counts: connections, logins, messages, octets, and how sessions ended."""

from services.pop3d.actions import Statistics
from stubmail.counters import Counters
from stubmail.metrics import Count, Durations, Family, names

MECHANISMS = ("USER", "APOP", "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")
REFUSALS = ("AUTH", "IN-USE", "LOGIN-DELAY", "SYS/TEMP", "SYS/PERM")  # RFC 3206, RFC 2449 §8.1
OTHER = "other"
ENDS = (
    "quit",
    "quit, deletions failed",
    "quit before login",
    "connection lost",
    "hung up",
    "idle",
    "not logged in in time",
    "takes nothing",
    "too many errors",
    "line too long",
    "octets behind STLS",
    "TLS failed",
    "failed",
    "made room",
    "too many sessions",
    "too many sessions of this address",
    "the server stops",
    OTHER,
)

LOGINS = Durations(
    "stubmail_pop3_login_duration_seconds",
    "How long logins took, from the credentials to the open maildrop, or to the refusal with its delay",
    "outcome",
    ("accepted", "refused"),
)
FAMILIES: tuple[Family, ...] = (
    Count(
        "stubmail_pop3_connections",
        "Connections, by whether TLS came before the greeting",
        {"pop3": "connections pop3", "pop3s": "connections pop3s"},
        "port",
    ),
    Count(
        "stubmail_pop3_logins",
        "Logins that were accepted, by mechanism",
        {mechanism: f"logins {mechanism}" for mechanism in MECHANISMS},
        "mechanism",
    ),
    Count(
        "stubmail_pop3_logins_refused",
        "Logins that were refused, by response code",
        {code: f"refused {code}" for code in REFUSALS},
        "code",
    ),
    LOGINS,
    Count("stubmail_pop3_attacks", "Networks and names with too many wrong passwords lately", {"": "attacks"}),
    Count(
        "stubmail_pop3_messages",
        "Messages, by what was done with them in sessions that have ended",
        {what: f"messages {what}" for what in ("retrieved", "topped", "deleted")},
        "what",
    ),
    Count("stubmail_pop3_retrieved_bytes", "Octets of the messages that were retrieved", {"": "octets retrieved"}),
    Count("stubmail_pop3_received_bytes", "Octets received, of sessions that have ended", {"": "octets received"}),
    Count("stubmail_pop3_sent_bytes", "Octets sent, of sessions that have ended", {"": "octets sent"}),
    Count("stubmail_pop3_sessions", "Sessions that have ended, by why", {end: f"ended {end}" for end in ENDS}, "end"),
)
NAMES = names(FAMILIES)


def make_counters() -> Counters:
    """Return the counters of this process, all of them 0."""
    return Counters(NAMES)


def count_end(counters: Counters, reason: str, statistics: Statistics, received: int, sent: int) -> None:
    """Count a session that has ended, and what was done in it."""
    counters.add(f"ended {reason if reason in ENDS else OTHER}")
    counters.add("messages retrieved", statistics.retrieved)
    counters.add("messages topped", statistics.tops)
    counters.add("messages deleted", statistics.deleted)
    counters.add("octets retrieved", statistics.retrieved_octets)
    counters.add("octets received", received)
    counters.add("octets sent", sent)


def count_login(counters: Counters, mechanism: str, refusal: str | None, seconds: float) -> None:
    """Count a login: ``refusal`` is None when it was accepted, else its response code."""
    LOGINS.observe(counters, "accepted" if refusal is None else "refused", seconds)
    if refusal is None:
        counters.add(f"logins {mechanism}")
    elif refusal in REFUSALS:
        counters.add(f"refused {refusal}")
