"""How much longer somebody's login takes while another client keeps the server as busy as one connection can.

All of it shares this machine's processors: the server, the client that logs in, and the one that floods.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import pop3_house, pop3_load
from bench.pop3_house import Pop3Server
from bench.table import interleave, show

MESSAGES, SIZE = 10_000, 1_000
LARGE, LARGE_SIZE = 4, 25 * 2**20
SECONDS = 1.5  # of logins in each measurement
ALONE = "alone"
_SMALL_USER, _LARGE_USER, _NEWCOMER = 0, 1, 2
_FLOODS = {
    "beside many messages": (_SMALL_USER, "RETR"),
    "beside many octets": (_LARGE_USER, "RETR"),
    "beside many commands": (_SMALL_USER, "NOOP"),
    "beside many listings": (_SMALL_USER, "UIDL"),
}


@contextmanager
def _flood(server: Pop3Server, name: str) -> Iterator[None]:
    if name == ALONE:
        yield
        return
    process = pop3_load.start_flood(server.port, *_FLOODS[name])
    try:
        yield
    finally:
        process.communicate()


def _login(server: Pop3Server, name: str) -> Callable[[], float]:
    def measure() -> float:
        with _flood(server, name):
            return pop3_load.logins(server.port, False, _NEWCOMER, 1, SECONDS).median * 1e3

    return measure


def main() -> None:
    """Measure and show."""
    if reason := pop3_house.missing():
        print(f"\nLeft out: {reason}.")
        return
    with tempfile.TemporaryDirectory(prefix="stubmail-bench-") as directory:
        template = Path(directory) / "mbox"
        pop3_house.write_mbox(template, MESSAGES, SIZE)
        with pop3_house.servers(template, 3) as servers:
            for who, server in servers.items():
                pop3_house.write_mbox(server.mail / f"u{_LARGE_USER}", LARGE, LARGE_SIZE)
                pop3_load.logins(server.port, False, 0, 3, 0.1)  # to get warm: indexes are made
                results = interleave({name: _login(server, name) for name in (ALONE, *_FLOODS)})
                title = f"POP3: login, STAT and QUIT, {who}, while one other client sends what it can"
                show(title, "ms", results, ALONE, "at most 2 times as long")


if __name__ == "__main__":
    main()
