"""How fast one client gets a whole mailbox, next to Dovecot: many small messages, and a few large ones.

BENCH_MAILDROPS=mbox or =Maildir: only that kind.
"""

import tempfile
from pathlib import Path

from bench import pop3_house, pop3_load
from bench.pop3_house import DOVECOT, Pop3Server
from bench.table import Measurement, interleave, show

SMALL, SMALL_SIZE = 10_000, 4_096
LARGE, LARGE_SIZE = 20, 25 * 2**20
WINDOW = 256  # commands on their way when pipelined
_WAYS = ((False, "clear"), (True, "TLS"))


def _messages(server: Pop3Server, tls: bool, window: int) -> Measurement:
    def measure() -> float:
        done = pop3_load.drain(server.at(tls), tls, 0, window)
        if done.messages != SMALL or done.octets < SMALL * (SMALL_SIZE - 100):
            raise SystemExit(f"{done.messages} messages came in {done.octets} octets")
        return done.messages / done.seconds

    return measure


def _octets(server: Pop3Server, tls: bool) -> Measurement:
    def measure() -> float:
        done = pop3_load.drain(server.at(tls), tls, 0, 1)
        if done.octets < LARGE * LARGE_SIZE:
            raise SystemExit(f"{done.messages} messages came in {done.octets} octets")
        return done.octets / done.seconds / 1e6

    return measure


def _small(template: Path, maildrop: str) -> None:
    pop3_house.write(maildrop, template, SMALL, SMALL_SIZE)
    with pop3_house.servers(template, 1) as servers:
        for server in servers.values():
            pop3_load.drain(server.port, False, 0, WINDOW)  # to get warm
        for tls, how in _WAYS:
            for window, kind, factor in ((1, "one by one", "1.2 times"), (WINDOW, "pipelined", "twice")):
                subjects = {name: _messages(server, tls, window) for name, server in servers.items()}
                title = f"POP3: {SMALL:,} messages of {SMALL_SIZE} octets in {maildrop}, {kind}, {how}"
                show(title, "messages/s", interleave(subjects), DOVECOT, f"at least {factor} as many")


def _large(template: Path, maildrop: str) -> None:
    pop3_house.write(maildrop, template, LARGE, LARGE_SIZE)
    with pop3_house.servers(template, 1) as servers:
        for server in servers.values():
            pop3_load.drain(server.port, False, 0, 1)
        for tls, how in _WAYS:
            subjects = {name: _octets(server, tls) for name, server in servers.items()}
            title = f"POP3: {LARGE} messages of {LARGE_SIZE // 2**20} MiB in {maildrop}, {how}"
            show(title, "MB/s", interleave(subjects), DOVECOT, "at least as many")


def main() -> None:
    """Measure and show."""
    if reason := pop3_house.missing():
        print(f"\nLeft out: {reason}.")
        return
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory:
        for maildrop in pop3_house.KINDS:
            _small(Path(directory) / f"small-{maildrop}", maildrop)
            _large(Path(directory) / f"large-{maildrop}", maildrop)


if __name__ == "__main__":
    main()
