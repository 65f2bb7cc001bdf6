"""How often a second somebody can log in, ask STAT and quit, next to Dovecot; each client has its own large mailbox.

STAT is among it because Dovecot reads the mailbox no sooner than that. BENCH_MAILDROPS=mbox or =Maildir: only that
kind.
"""

import tempfile
from pathlib import Path

from bench import pop3_house, pop3_load
from bench.pop3_house import DOVECOT, Pop3Server
from bench.table import Measurement, interleave, show

MESSAGES, SIZE = 10_000, 1_000  # of each mailbox
CLIENTS = 16
SECONDS = 1.0  # of each measurement


def _measure(server: Pop3Server, tls: bool, clients: int) -> Measurement:
    return lambda: pop3_load.logins(server.at(tls), tls, 0, clients, SECONDS).rate


def _all(template: Path, kind: str) -> None:
    pop3_house.write(kind, template, MESSAGES, SIZE)
    with pop3_house.servers(template, CLIENTS) as servers:
        for server in servers.values():
            pop3_load.logins(server.port, False, 0, CLIENTS, 0.1)  # to get warm: indexes are made
        for tls, factor in ((False, "3"), (True, "1.5")):
            for clients in (1, CLIENTS):
                subjects = {name: _measure(server, tls, clients) for name, server in servers.items()}
                how = "TLS" if tls else "clear"
                title = f"POP3: login, STAT and QUIT, {kind} of {MESSAGES:,} messages, {how}, {clients} at a time"
                show(title, "sessions/s", interleave(subjects), DOVECOT, f"at least {factor} times as many")


def main() -> None:
    """Measure and show."""
    if reason := pop3_house.missing():
        print(f"\nLeft out: {reason}.")
        return
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory:
        for kind in pop3_house.KINDS:
            _all(Path(directory) / kind, kind)


if __name__ == "__main__":
    main()
