"""How much memory the gateway takes: for one message of 25 MB to 20 people, and after many messages as after few.

BENCH_MESSAGES=NUMBER: after so many messages; the default fits into two minutes.
"""

import os
import smtplib
import time
from pathlib import Path

from bench import gateway_house, postfix
from bench.gateway_house import SENDER, SENT, Domains, memory
from bench.table import Result, show

PEOPLE = 20
LARGE = 25 * 2**20  # octets
LIMIT = 250  # MiB
FEW, MANY = 1_000, int(os.environ.get("BENCH_MESSAGES", "10000"))
SIZE, CONNECTIONS = 5_000, 50
BATCH = 1_000  # messages that wait at most: what waits for the courier takes its memory for a while
WAIT_SECONDS = 300.0
_LINE = b"0123456789abcdef" * 4 + b"\r\n"
_MIB = 2**20


def _people(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


def _large(domains: Domains) -> None:
    """Send one large message; show the peaks, and how often its octets went to the store."""
    header = f"From: {SENDER}\r\nSubject: large\r\n\r\n".encode()
    text = header + _LINE * (LARGE // len(_LINE))
    recipients = [f"{name}@{gateway_house.RECIPIENT_DOMAIN}" for name in _people(PEOPLE)]
    for pid in domains.processes().values():
        Path(f"/proc/{pid}/clear_refs").write_text(
            "5"
        )  # the peak is what there is now (proc(5)): reading users took more
    sent = domains.metric(SENT)
    received = domains.store_metric("stubmail_store_received_bytes_total")
    started = time.monotonic()
    with smtplib.SMTP("127.0.0.1", domains.port) as client:
        client.sendmail(SENDER, recipients, text)
    accepted = time.monotonic() - started
    domains.wait_for(sent + PEOPLE, WAIT_SECONDS)
    seconds = time.monotonic() - started
    octets = domains.store_metric("stubmail_store_received_bytes_total") - received
    peaks = {role: memory(pid, "VmHWM") / _MIB for role, pid in domains.processes().items()}
    results = {"limit": Result("limit", (LIMIT,))}
    results |= {role: Result(role, (peak,)) for role, peak in peaks.items()}
    results["both"] = Result("both", (sum(peaks.values()),))
    title = f"Memory at its peak: one message of {LARGE // _MIB} MiB to {PEOPLE} people"
    show(title, "MiB", results, "limit", "less than the limit")
    times = "once" if octets < 2 * len(text) else "more than once"
    print(
        f"\n250 after {accepted:.1f} s, in the store after {seconds:.1f} s. For {PEOPLE} recipients the store was sent "
        f"{octets / len(text):.2f} times the message's octets: encrypted {times}."
    )


def _many(domains: Domains) -> None:
    """Send small messages; show what the processes have after few, and after many."""
    sent, after = domains.metric(SENT), {}
    started, done = time.monotonic(), 0
    for number in (FEW, MANY):
        while done < number:
            some = min(BATCH, number - done)
            postfix.submit(domains.port, some, SIZE, CONNECTIONS, to="p0@beta.example")
            done += some
            domains.wait_for(sent + done, WAIT_SECONDS)
        after[number] = {role: memory(pid) / _MIB for role, pid in domains.processes().items()}
    for role in after[FEW]:
        results = {f"{number:,}": Result(f"after {number:,}", (after[number][role],)) for number in (FEW, MANY)}
        show(f"Memory of the {role}", "MiB", results, f"{FEW:,}", "as much as at first")
    print(f"\n{MANY:,} messages of {SIZE} octets in {time.monotonic() - started:.0f} s")


def main() -> None:
    """Measure and show."""
    with gateway_house.domains(_people(PEOPLE)) as domains:
        if reason := postfix.missing():
            print(f"\nSmall messages left out: {reason}.")
        else:
            _many(domains)
        _large(domains)


if __name__ == "__main__":
    main()
