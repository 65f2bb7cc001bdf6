"""What a list, a check and a store cost with 1,000,000 posts in the store, next to the same with 1,000.

BENCH_POSTGRESQL=URL: besides SQLite, on that server; its role makes two databases, and drops them in the end.
"""

import contextlib
import itertools
import os
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from sqlalchemy import create_engine, insert

from bench import store_house
from bench.http_load import load, write_requests
from bench.many_posts import Group, fill
from bench.store_house import House, Server, request
from bench.table import ROUNDS, interleave, show
from services.post_manager.storage.engines import parse_url
from services.post_manager.storage.schema import cookies
from services.post_manager.storage.watch import Watch

REQUESTS = 600  # a round
CONNECTIONS = 4
LIMIT = 20  # posts of one listing
READS, AT_ONCE = 100, 64  # batches of checks that have to be read, and how many there are in one
PEOPLE = 50
COOKIES = 200
RECIPIENTS = 200  # new ones, of the posts that are stored
SIZE = 5_000  # octets of each
TARGET = "at most 1.30 of the first line"
FEW = Group(0, 50, 20, 10**6)  # 1,000 posts
SPREAD = Group(0, 25_000, 20, 10**6)
HEAPED = Group(50_000, 5, 50_000, 10**6)
STRANGE = Group(60_000, 5, 50_000, 2 * 10**6)  # of whom nobody asks for them
FRIENDLY = Group(60_000, 5, 20, 10**6)  # the same people's, from senders they ask for
MANY = [SPREAD, HEAPED, STRANGE, FRIENDLY]  # 1,000,100 posts


class _Subject:
    """Some people at one store: how they list, how their checks are read, and how posts are stored beside theirs."""

    def __init__(self, directory: Path, house: House, server: Server, watch: Watch, group: Group) -> None:
        self._server = server
        self._watch = watch
        people = group.people(PEOPLE)
        sessions = itertools.cycle([house.session(person) for person in people])
        self._cookies = _give_cookies(house, people)
        query = {"senders": group.senders(), "after": 0, "limit": LIMIT}
        self._lists = _write(directory, lambda: (request(next(sessions), "list", query) for _ in range(REQUESTS)))
        senders = [house.session(sender) for sender in group.senders()]
        to = Group(10**7, RECIPIENTS, 0, 0).people(RECIPIENTS)
        self._posts = _write(directory, lambda: store_house.store_requests(senders, to, REQUESTS, SIZE))

    def list(self) -> float:
        """Return microseconds that a listing takes over HTTP, when there are always some of them at work."""
        return self._send(next(self._lists))

    def store(self) -> float:
        """Return microseconds that it takes to store a post over HTTP, likewise."""
        return self._send(next(self._posts))

    def _send(self, requests: Path) -> float:
        done = load(self._server.port, requests, CONNECTIONS).expect("200")
        return done.seconds / sum(done.status.values()) * 1e6

    def read(self) -> float:
        """Return microseconds that it takes to read what a check needs, AT_ONCE of them together."""
        now = int(time.time())
        batches = [random.sample(self._cookies, AT_ONCE) for _ in range(READS)]
        began = time.perf_counter()
        for batch in batches:
            if len(self._watch.look().cookies(batch, now)) < AT_ONCE:
                raise SystemExit("a cookie is missing")
        return (time.perf_counter() - began) / READS / AT_ONCE * 1e6


def _write(directory: Path, make: Callable[[], Iterable[bytes]]) -> Iterator[Path]:
    """Write the requests of all rounds, and of one to get warm; return their files."""
    files = [directory / secrets.token_hex(8) for _ in range(ROUNDS + 1)]
    for file in files:
        write_requests(file, make())
    return iter(files)


def _give_cookies(house: House, people: Sequence[str]) -> list[bytes]:
    ids = [secrets.token_bytes(16) for _ in range(COOKIES)]
    now = int(time.time())
    rows = [
        {"id": cookie, "secret": bytes(32), "fingerprint": person, "used": now}
        for cookie, person in zip(ids, itertools.cycle(people), strict=False)
    ]
    with house.open() as database, database.write() as connection:
        connection.execute(insert(cookies), rows)
    return ids


@contextlib.contextmanager
def _store(groups: Sequence[Group], url: str) -> Iterator[tuple[House, Server, Watch]]:
    """A store in which these posts wait, which runs, and its database, watched."""
    accounts = [sender for group in groups for sender in group.senders()]
    with store_house.house(sorted(set(accounts)), url=url) as house:
        with house.open() as database:
            began = time.monotonic()
            fill(database, groups)
            number = sum(group.recipients * group.each for group in groups)
            print(f"({number:,} posts in {time.monotonic() - began:.0f} s)")
        with house.serve() as server, house.open() as database, database.watch() as connection:
            yield house, server, Watch(connection)


def _compare(engine: str, few_url: str, many_url: str) -> None:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stubmail-bench-")))
        few = stack.enter_context(_store([FEW], few_url))
        many = stack.enter_context(_store(MANY, many_url))
        subjects = {
            "1,000 posts, 20 for each": _Subject(directory, *few, FEW),
            "1,000,000 posts, 20 for each": _Subject(directory, *many, SPREAD),
            "of these, 50,000 for each": _Subject(directory, *many, HEAPED),
            "20 for each, behind 50,000 of strangers": _Subject(directory, *many, FRIENDLY),
        }
        peer = next(iter(subjects))
        for subject in subjects.values():
            subject.list(), subject.read(), subject.store()  # to get warm
        lists = interleave({name: subject.list for name, subject in subjects.items()})
        show(f"Lists over HTTP, {LIMIT} posts an answer, {engine}", "µs a list", lists, peer, TARGET)
        reads = interleave({name: subject.read for name, subject in subjects.items()})
        show(f"Checks that have to be read, {AT_ONCE} at once, {engine}", "µs a check", reads, peer, TARGET)
        stores = interleave({name: subjects[name].store for name in list(subjects)[:2]})
        show(f"Posts of {SIZE} octets stored over HTTP, {engine}", "µs a post", stores, peer, TARGET)


@contextlib.contextmanager
def _databases(server: str) -> Iterator[tuple[str, str]]:
    """Two new databases on a PostgreSQL server."""
    url = parse_url(server)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    names = [f"bench_{secrets.token_hex(4)}" for _ in range(2)]
    try:
        with engine.connect() as connection:
            for name in names:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        few, many = (url.set(database=name).render_as_string(hide_password=False) for name in names)
        yield few, many
    finally:
        with engine.connect() as connection:
            for name in names:
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        engine.dispose()


def main() -> None:
    """Measure and show."""
    _compare("SQLite", "", "")
    if server := os.environ.get("BENCH_POSTGRESQL"):
        with _databases(server) as (few, many):
            _compare("PostgreSQL", few, many)


if __name__ == "__main__":
    main()
