"""How much the store's memory grows while it serves a backlog of 1 GB, and while it takes one message of 50 MB."""

import contextlib
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from bench import store_house
from bench.http_load import load, write_requests
from bench.store_house import House, Server, address_of, request
from bench.table import Result, show
from services.post_manager.http.upload import Held
from services.post_manager.storage import posts
from services.post_manager.storage.posts import NewPost, Sender, Terms
from services.post_manager.storage.sessions import Session

BACKLOG = 10**9  # octets
HEAD = 94  # octets of a post, in front of its body
LARGE, SMALL = 50 * 10**6, 5_000  # octets of a post
MOST = 1_000  # posts in a request
CONNECTIONS = 16
TARGET = 64  # MiB
_TERMS = Terms(10**9, 10**13, 10**9, 10**6)


def _backlog(house: House, sender: str, recipient: str, size: int) -> list[bytes]:
    """Have posts of this size wait, 1 GB together; return their ids."""
    ids = [secrets.token_bytes(16) for _ in range(BACKLOG // size)]
    who, step = Sender(sender, address_of(sender)), min(2 * MOST, max(1, LARGE // size))
    with house.open() as database:
        # Each transaction is a second later: no real store gets so many posts in one.
        for now, start in enumerate(range(0, len(ids), step), int(time.time())):
            some = ids[start : start + step]
            bodies = [Held(sha256(data).digest(), data) for data in map(secrets.token_bytes, [size - HEAD] * len(some))]
            new = [NewPost(one, recipient, address_of(recipient), bytes(HEAD), n) for n, one in enumerate(some)]
            posts.store(database, who, new, bodies, _TERMS, now)
    return ids


def _fetches(session: Session, ids: Sequence[bytes]) -> Iterator[bytes]:
    for start in range(0, len(ids), MOST):
        wanted = [{"id": post_id.hex(), "offset": 0} for post_id in ids[start : start + MOST]]
        yield request(session, "fetch", {"posts": wanted})


def _growth(server: Server, requests: Path, octets: int) -> tuple[float, float]:
    """Send requests to be answered by so many octets at least; return MiB of memory more, at the peak, and seconds."""
    for pid in server.processes():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is what there is now (proc(5))
    before = server.memory()
    done = load(server.port, requests, CONNECTIONS).expect("200")
    if done.octets < octets:
        raise SystemExit(f"{octets} octets were to come, but {done.octets} did")
    return (server.memory() - before) / 2**20, done.seconds


def main() -> None:
    """Measure and show."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stubmail-bench-")))
        sender, *recipients = store_house.fingerprints(3)
        house = stack.enter_context(store_house.house([sender]))
        own = house.session(sender)
        work: dict[str, tuple[Path, int]] = {}
        for recipient, size in zip(recipients, (SMALL, LARGE), strict=True):
            ids = _backlog(house, sender, recipient, size)
            path = directory / f"fetch.{size}"
            write_requests(path, _fetches(house.session(recipient), ids))
            work[f"1 GB fetched, in {len(ids):,} posts of {size:,} octets"] = path, BACKLOG // size * size
        write_requests(directory / "store", store_house.store_requests([own], recipients, 1, LARGE))
        work[f"one post of {LARGE:,} octets stored"] = directory / "store", 0
        growth: dict[str, list[float]] = {}
        seconds: dict[str, float] = {}
        for name, (path, octets) in work.items():
            with house.serve() as server:  # each begins with what a store has that did nothing large
                write_requests(directory / "warm", store_house.store_requests([own], recipients, 200, SMALL))
                load(server.port, directory / "warm", CONNECTIONS).expect("200")
                more, seconds[name] = _growth(server, path, octets)
                growth[name] = [more]
        results = {name: Result(name, tuple(values)) for name, values in growth.items()}
        limit = Result("limit", (TARGET,))
        title = f"Memory of the store's processes, at its peak, {CONNECTIONS} connections"
        show(title, "MiB more than before", {"limit": limit} | results, "limit", "less than the limit")
        print("\n" + "; ".join(f"{name}: {number:.1f} s" for name, number in seconds.items()))


if __name__ == "__main__":
    main()
