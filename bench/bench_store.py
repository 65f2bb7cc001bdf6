"""How many 5 KB posts a second the store takes over HTTP, each durable first, next to a form that is thrown away."""

import contextlib
import secrets
import tempfile
from pathlib import Path

from bench import store_house
from bench.http_load import load, write_requests
from bench.store_house import THREADS, WORKERS, House, Server
from bench.table import ROUNDS, interleave, show

SIZE = 5_000
REQUESTS = 4_000  # a round
CONNECTIONS = 16
SENDERS = 16


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
        cpu: dict[str, list[float]] = {"null": [], "store": []}
        rounds = iter(range(ROUNDS + 1))
        measure(null, directory / "null")
        measure(store, directory / f"store.{next(rounds)}")

        def measure_null() -> float:
            return measure(null, directory / "null", cpu["null"])

        def measure_store() -> float:
            return measure(store, directory / f"store.{next(rounds)}", cpu["store"])

        results = interleave({"null": measure_null, "store": measure_store})
        show(
            f"Posts of {SIZE} octets stored over HTTP, one a request, {CONNECTIONS} connections",
            "requests/s",
            results,
            "null",
            "at least 0.60 of a Flask view that parses a form of that size and forgets it, on the same gunicorn",
        )
        spent = {name: iter(values) for name, values in cpu.items()}
        show(
            "The same: processor time of the server's processes",
            "µs a request",
            interleave({"null": lambda: next(spent["null"]), "store": lambda: next(spent["store"])}),
            "null",
        )


def _write_stores(house: House, people: list[str], directory: Path) -> int:
    """Write the requests of all rounds, the first one to get warm; return the length of one."""
    sessions = [house.session(fingerprint) for fingerprint in people]
    to = store_house.fingerprints(200)[SENDERS:]
    length = 0
    for number in range(ROUNDS + 1):
        requests = list(store_house.store_requests(sessions, to, REQUESTS, SIZE))
        write_requests(directory / f"store.{number}", requests)
        length = len(requests[0])
    return length


def measure(server: Server, requests: Path, cpu: list[float] | None = None) -> float:
    """Send the requests of a file; return answers a second, and note µs of processor time each."""
    before = server.cpu_seconds()
    done = load(server.port, requests, CONNECTIONS).expect("200")
    if cpu is not None:
        cpu.append((server.cpu_seconds() - before) / sum(done.status.values()) * 1e6)
    return done.rate


if __name__ == "__main__":
    main()
