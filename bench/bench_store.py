"""How many 5 KB posts a second the store takes over HTTP, each durable first, next to a form that is thrown away."""

import contextlib
import itertools
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench import store_house
from bench.http_load import load, write_requests
from bench.store_house import THREADS, WORKERS, House, Server
from bench.table import Measurement, Result, interleave, show

SIZE = 5_000
REQUESTS = 2_000  # a round
ROUNDS = 9  # short ones: the machine's pace changes, for both alike
CONNECTIONS = (16, 64)
SENDERS = 16
FILES = 1 + len(CONNECTIONS) * ROUNDS  # of requests: one to get warm, one for each round


def main() -> None:
    """Measure and show."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stubmail-bench-")))
        people = store_house.fingerprints(SENDERS)
        house = stack.enter_context(store_house.house(people))
        length = _write_stores(house, people, directory)
        empty = store_house.http_post([("part", secrets.token_bytes(SIZE))])
        empty = store_house.http_post([("part", secrets.token_bytes(SIZE + length - len(empty)))])
        write_requests(directory / "null", [empty] * REQUESTS)
        null = stack.enter_context(
            store_house.serving(["bench.null_app", str(WORKERS), str(THREADS)], directory / "null.log")
        )
        store = stack.enter_context(house.serve())
        subjects = {
            "null": (null, itertools.repeat(directory / "null")),
            "store": (store, iter([directory / f"store.{number}" for number in range(FILES)])),
        }
        for server, requests in subjects.values():
            measure(server, next(requests), CONNECTIONS[0])  # to get warm
        for connections in CONNECTIONS:
            _compare(connections, subjects)


def _compare(connections: int, subjects: Mapping[str, tuple[Server, Iterator[Path]]]) -> None:
    """Measure all in turn, and show requests a second and what they cost."""
    cpu: dict[str, list[float]] = {name: [] for name in subjects}

    def measurement(name: str) -> Measurement:
        server, requests = subjects[name]
        return lambda: measure(server, next(requests), connections, cpu[name])

    results = interleave({name: measurement(name) for name in subjects}, ROUNDS)
    show(
        f"Posts of {SIZE} octets stored over HTTP, one a request, {connections} connections",
        "requests/s",
        results,
        "null",
        "at least 0.60 of a Flask view that parses a form of that size and forgets it, on the same gunicorn",
    )
    show(
        "The same: processor time of the server's processes",
        "µs a request",
        {name: Result(name, tuple(values)) for name, values in cpu.items()},
        "null",
    )


def _write_stores(house: House, people: list[str], directory: Path) -> int:
    """Write the requests of all rounds; return the length of one."""
    sessions = [house.session(fingerprint) for fingerprint in people]
    to = store_house.fingerprints(200)[SENDERS:]
    length = 0
    for number in range(FILES):
        requests = list(store_house.store_requests(sessions, to, REQUESTS, SIZE))
        write_requests(directory / f"store.{number}", requests)
        length = len(requests[0])
    return length


def measure(server: Server, requests: Path, connections: int, cpu: list[float] | None = None) -> float:
    """Send the requests of a file; return answers a second, and note µs of processor time each."""
    before = server.cpu_seconds()
    done = load(server.port, requests, connections).expect("200")
    if cpu is not None:
        cpu.append((server.cpu_seconds() - before) / sum(done.status.values()) * 1e6)
    return done.rate


if __name__ == "__main__":
    main()
