"""UDP checks: the notifier with 100,000 cookies next to a server that only echoes; at rest, under writes, in floods.

A check is parsed, its MAC verified, what waits looked up, and the answer made and signed.
"""

import contextlib
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import insert

from bench.store_house import House, Server, address_of, fingerprints, house
from bench.table import Result, interleave, show
from bench.udp_load import Datagrams, load
from services.post_manager.cookie_ids import CookieIds
from services.post_manager.storage.keys import store_key
from services.post_manager.storage.schema import cookies, tallies
from stubmail.datagram import check_to_wire, token_request_to_wire

COOKIES = 100_000
SECONDS = 1.0  # of each measurement
WRITES = 500  # posts a second
_LISTENING = re.compile(r"listening address=[0-9.]+:(\d+)")

Cookie = tuple[bytes, bytes]  # id and key


@contextlib.contextmanager
def _serving(log: Path, *argv: str) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", *argv], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 30
        while not (found := _LISTENING.search(log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{argv[0]} does not start:\n{log.read_text()}")
            time.sleep(0.02)
        yield Server(process, int(found[1]))
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def _notifier(store: House, listen: str) -> Iterator[Server]:
    config = store.root / f"{listen}.conf"
    text = (store.root / "stub.conf").read_text()
    config.write_text(f'{text}udp_listen = "{listen}:0"\n')
    with _serving(
        store.root / f"{listen}.log", "services.post_manager.udp.notifier", "--config", str(config)
    ) as server:
        yield server


def _fill(store: House) -> list[Cookie]:
    """Give each of many people a cookie and a waiting post."""
    with store.open() as database:
        ids = CookieIds(store_key(database))
        known = [(ids.new(), secrets.token_bytes(32)) for _ in range(COOKIES)]
        people, now = fingerprints(COOKIES), int(time.time())
        with database.write() as connection:
            rows = [
                {"id": cookie, "secret": key, "fingerprint": person, "used": now}
                for (cookie, key), person in zip(known, people, strict=True)
            ]
            connection.execute(insert(cookies), rows)
            sender = {"sender": people[0], "address": address_of(people[0]), "posts": 1}
            connection.execute(insert(tallies), [{"recipient": person, **sender} for person in people])
    return known


def _checks(known: Sequence[Cookie]) -> Datagrams:
    return Datagrams([check_to_wire(cookie, secrets.token_bytes(16), key) for cookie, key in known])


def _anonymous_memory(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    match = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


class _Subject:
    """One server asked in one way: answers a second, and what each takes of a processor."""

    def __init__(self, server: Server, datagrams: Datagrams, database: str = "") -> None:
        self._server = server
        self._datagrams = datagrams
        self._database = database  # into which posts are stored meanwhile
        self.microseconds: list[float] = []
        self.stored: list[str] = []

    def measure(self) -> float:
        """Return answers a second."""
        if not self._database:
            load(self._server.port, self._datagrams, once=True)  # what was written since has to be read again
            return self._load()
        argv = [sys.executable, "-m", "bench.post_writer", self._database, str(WRITES), str(SECONDS + 1)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
            time.sleep(0.7)  # it has to start
            rate = self._load()
            self.stored.append(writer.communicate()[0].strip())
        return rate

    def _load(self) -> float:
        before = self._server.cpu_seconds()
        done = load(self._server.port, self._datagrams, seconds=SECONDS)
        self.microseconds.append((self._server.cpu_seconds() - before) / max(done.answers, 1) * 1e6)
        return done.rate


def main() -> None:
    """Measure, and print the tables."""
    with house(udp=True) as store, contextlib.ExitStack() as stack:
        known = _fill(store)
        checks = _checks(known)
        shuffled = _checks(secrets.SystemRandom().sample(known, 20_000))
        strangers = Datagrams([check_to_wire(secrets.token_bytes(16), bytes(16), bytes(32)) for _ in range(20_000)])
        tokens = Datagrams([token_request_to_wire(secrets.token_bytes(16)) for _ in range(1_000)])
        plain = stack.enter_context(_serving(store.root / "plain.log", "bench.udp_echo", "plain"))
        loop = stack.enter_context(_serving(store.root / "asyncio.log", "bench.udp_echo", "asyncio"))
        uv = stack.enter_context(_serving(store.root / "uvloop.log", "bench.udp_echo", "uvloop"))
        one = stack.enter_context(_notifier(store, "127.0.0.1"))
        every = stack.enter_context(_notifier(store, "0.0.0.0"))
        before = _anonymous_memory(one)
        first = load(one.port, checks, once=True)
        memory = _anonymous_memory(one) - before
        load(every.port, checks, once=True)
        print(f"\n{COOKIES:,} cookies read at {first.rate:,.0f} checks a second, {first.lost} lost;")
        print(f"they take {memory / 2**20:.0f} MiB of memory, {memory / COOKIES:.0f} octets each")
        writes = _Subject(one, shuffled, store.url)
        subjects = {
            "echo": _Subject(plain, shuffled),
            "echo, asyncio": _Subject(loop, shuffled),
            "echo, uvloop": _Subject(uv, shuffled),
            "notifier": _Subject(one, shuffled),
            "notifier on 0.0.0.0": _Subject(every, shuffled),
            f"notifier, {WRITES} posts/s": writes,
            "notifier, made-up cookies": _Subject(one, strangers),
            "notifier, tokens": _Subject(one, tokens),
        }
        results = interleave({name: subject.measure for name, subject in subjects.items()})
        show("UDP checks", "answers/s", results, "echo", "the notifier at 0.40 of the echo at least")
        times = {name: Result(name, tuple(subject.microseconds)) for name, subject in subjects.items()}
        show("Processor time for an answer", "µs", times, "echo", "at most 2.5 of the echo's, whatever else runs")
        print(f"\n(posts stored a second meanwhile: {', '.join(writes.stored)})")


if __name__ == "__main__":
    main()
