"""A very large mbox and very many sessions, next to Dovecot: the first login, the next ones, memory, and new logins.

BENCH_MESSAGES=NUMBER: how many of 4 KB are in the large mbox; with the default, 250,000, it takes 1 GB twice, and
Dovecot's first login takes 20 seconds. Dovecot has a process for each session: it holds fewer, to be done soon.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import pop3_house, pop3_load
from bench.pop3_house import DOVECOT, POP3D, Pop3Server
from bench.table import Result, interleave, show

MESSAGES, SIZE = int(os.environ.get("BENCH_MESSAGES", "250000")), 4_250
SESSIONS = {DOVECOT: 200, POP3D: 1_000}
NEWCOMERS = 16  # users whose logins come before and while the others idle
FEW = 3  # messages in each of the mailboxes for many sessions
SECONDS = 2.0  # of new logins, one after the other, while the others idle
LIMITS = {False: "5 KB", True: "60 KB"}


def _login(server: Pop3Server) -> Callable[[], float]:
    return lambda: pop3_load.logins(server.port, False, 0, 1, 0.0).median


def _large(template: Path) -> None:
    pop3_house.write_mbox(template, MESSAGES, SIZE)
    with pop3_house.servers(template, 1) as servers:
        template.unlink()
        subjects = {name: _login(server) for name, server in servers.items()}
        where = f"Login, STAT and QUIT, mbox of {MESSAGES:,} messages, {MESSAGES * SIZE / 1e9:.2f} GB"
        first = interleave(subjects, rounds=1)
        show(f"POP3: {where}, no index yet", "s", first, DOVECOT, "at most 0.125 of the time")
        show(f"POP3: {where}, with the index", "s", interleave(subjects, 5), DOVECOT, "at most 0.5 of the time")


def _held(server: Pop3Server, tls: bool, sessions: int) -> tuple[float, pop3_load.Logins]:
    """Return octets of memory that each idle session takes, and how new logins went meanwhile."""
    pop3_load.logins(server.at(tls), tls, sessions, NEWCOMERS, 0.5)  # threads are there, and whatever is made once
    before = server.memory()
    holder = pop3_load.start_holding(server.at(tls), tls, 0, sessions)
    try:
        each = (server.memory() - before) / sessions
        return each, pop3_load.logins(server.at(tls), tls, sessions, 1, SECONDS)
    finally:
        holder.communicate()


def _many(template: Path, tls: bool) -> None:
    pop3_house.write_mbox(template, FEW, SIZE)
    with pop3_house.servers(template, max(SESSIONS.values()) + NEWCOMERS) as servers:
        held = {name: _held(server, tls, SESSIONS[name]) for name, server in servers.items()}
    names = {name: f"{name}, {SESSIONS[name]:,} sessions" for name in held}
    how = "TLS" if tls else "clear"

    def results(values: Mapping[str, float]) -> dict[str, Result]:
        return {name: Result(names[name], (value,)) for name, value in values.items()}

    memory = results({name: each / 1e3 for name, (each, _) in held.items()})
    show(f"POP3: memory of an idle session, {how}", "KB", memory, DOVECOT, f"less than {LIMITS[tls]}")
    slowest = results({name: new.p99 * 1e3 for name, (_, new) in held.items()})
    show(f"POP3: new sessions while these idle, {how}, 99th percentile", "ms", slowest, DOVECOT, "less than 50 ms")


def main() -> None:
    """Measure and show."""
    if reason := pop3_house.missing():
        print(f"\nLeft out: {reason}.")
        return
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory:
        for tls in (False, True):
            _many(Path(directory) / "mbox", tls)
        _large(Path(directory) / "mbox")


if __name__ == "__main__":
    main()
