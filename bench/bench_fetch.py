"""How many 5 KB posts a second the store serves over HTTP, in batches of 100 and one by one, next to as many zeros.

What is fetched is not acknowledged: the posts are the same in each round, the requests are new ones.
"""

import contextlib
import itertools
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from bench import store_house
from bench.http_load import Load, load, write_requests
from bench.store_house import THREADS, WORKERS, House, Server, address_of
from bench.table import ROUNDS, Result, interleave, show
from services.post_manager.http.upload import Held
from services.post_manager.storage import posts
from services.post_manager.storage.posts import NewPost, Sender, Terms
from stubmail.frames import HEADER_SIZE

SIZE = 5_000  # octets of a post
HEAD = 94  # of these
PEOPLE = 20
WAITING = 1_000  # posts for each of them
BATCH = 100
SINGLE = 2_000  # requests a round for one post each
CONNECTIONS = 16
_TERMS = Terms(10**9, 10**13, 10**9, 10**6)

Ids = Mapping[str, list[bytes]]


def fill(house: House, sender: str, recipients: list[str]) -> Ids:
    """Store what is going to be fetched; return the posts' ids by recipient."""
    who, now = Sender(sender, address_of(sender)), int(time.time())
    ids: dict[str, list[bytes]] = {}
    with house.open() as database:
        for recipient in recipients:
            ids[recipient] = [secrets.token_bytes(16) for _ in range(WAITING)]
            bodies = [Held(sha256(data).digest(), data) for data in map(secrets.token_bytes, [SIZE - HEAD] * WAITING)]
            new = [
                NewPost(post_id, recipient, address_of(recipient), secrets.token_bytes(HEAD), index)
                for index, post_id in enumerate(ids[recipient])
            ]
            posts.store(database, who, new, bodies, _TERMS, now)
    return ids


def _requests(house: House, ids: Ids, batch: int) -> Iterator[bytes]:
    """Yield requests that fetch every post once."""
    for recipient, waiting in ids.items():
        session = house.session(recipient)
        for start in range(0, len(waiting), batch):
            wanted = [{"id": post_id.hex(), "offset": 0} for post_id in waiting[start : start + batch]]
            yield store_house.request(session, "fetch", {"posts": wanted})


class _Subject:
    """One server asked in one way: posts a second, and what each takes of a processor."""

    def __init__(self, server: Server, files: Iterator[Path], batch: int) -> None:
        self._server = server
        self._files = files
        self._batch = batch
        self.microseconds: list[float] = []

    def measure(self) -> float:
        """Return posts a second."""
        before = self._server.cpu_seconds()
        done = load(self._server.port, next(self._files), CONNECTIONS).expect("200")
        number = sum(done.status.values()) * self._batch
        self._check(done, number)
        self.microseconds.append((self._server.cpu_seconds() - before) / number * 1e6)
        return number / done.seconds

    def _check(self, done: Load, number: int) -> None:
        if done.octets < number * (SIZE + HEADER_SIZE):
            raise SystemExit(f"{number} posts cannot have come in {done.octets} octets")


def main() -> None:
    """Measure and show."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stubmail-bench-")))
        sender, *recipients = store_house.fingerprints(PEOPLE + 1)
        house = stack.enter_context(store_house.house([sender]))
        ids = fill(house, sender, recipients)
        few = {person: waiting[: SINGLE // PEOPLE] for person, waiting in ids.items()}
        null = stack.enter_context(
            store_house.serving(["bench.null_app", str(WORKERS), str(THREADS)], directory / "null.log")
        )
        store = stack.enter_context(house.serve())
        subjects = {}
        for batch, asked in ((BATCH, ids), (1, few)):
            name = f"{batch} at once"
            files = [directory / f"fetch.{batch}.{number}" for number in range(ROUNDS + 1)]
            for file in files:
                requests = list(_requests(house, asked, batch))
                write_requests(file, requests)
            write_requests(directory / f"null.{batch}", _for_zeros(requests, batch))
            subjects[f"zeros, {name}"] = _Subject(null, itertools.repeat(directory / f"null.{batch}"), batch)
            subjects[f"store, {name}"] = _Subject(store, iter(files), batch)
        _show(subjects)


def _for_zeros(requests: Iterable[bytes], batch: int) -> Iterator[bytes]:
    """Yield requests as large as these, to be answered by as many octets."""
    octets = batch * (SIZE + HEADER_SIZE) + HEADER_SIZE
    return (request.replace(b"POST /post_manager ", b"POST /post_manager/%d " % octets, 1) for request in requests)


def _show(subjects: Mapping[str, _Subject]) -> None:
    for subject in subjects.values():
        subject.measure()  # to get warm
        subject.microseconds.clear()
    results = interleave({name: subject.measure for name, subject in subjects.items()})
    times = {name: Result(name, tuple(subject.microseconds)) for name, subject in subjects.items()}
    for batch in (BATCH, 1):
        peer = f"zeros, {batch} at once"
        some = [name for name in subjects if name.endswith(f", {batch} at once")]
        target = "8,000 posts/s at least" if batch == BATCH else ""
        title = f"Posts of {SIZE} octets fetched over HTTP, {batch} a request, {CONNECTIONS} connections"
        show(title, "posts/s", {name: results[name] for name in some}, peer, target)
        show("The same: processor time", "µs a post", {name: times[name] for name in some}, peer)


if __name__ == "__main__":
    main()
