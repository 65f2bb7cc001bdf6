"""UDP checks: an authentic one is answered truly, everything else by nothing or by something shorter."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.post_manager.checks import DAY, Checks
from services.post_manager.counters import Counters
from services.post_manager.storage import serials, sessions
from services.post_manager.storage.database import Watch
from services.post_manager.storage.schema import cookies
from stubmail.datagram import (
    CHECK_SIZE,
    Unknown,
    Waiting,
    answer_from_wire,
    check_to_wire,
    unknown_to_wire,
    waiting_to_wire,
)
from tests.support.store import NOW, Person, Store, Talker, running_store

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Iterator[Store]:
    with running_store(tmp_path, [ALICE], database=database_url) as store:
        yield store


class Asking:
    """A notifier without its socket, and the cookie of somebody who asks it."""

    def __init__(self, talker: Talker, watch: Watch) -> None:
        self.database = talker.store.database
        self.watch = watch
        self.cookie = bytes.fromhex(talker.session["cookie"])
        self.key = bytes.fromhex(talker.session["cookie_key"])
        self.counters = Counters()
        self.checks = Checks(self.counters)

    def answer(self, *datagrams: bytes, now: int = NOW) -> list[bytes | None]:
        """What comes back for datagrams that arrive together."""
        with self.watch.look() as (connection, version):
            self.checks.new_state(version)
            return [self.checks.answer(data, connection, now) for data in datagrams]

    def ask(self, now: int = NOW) -> Waiting | Unknown:
        """Ask once, as a client does."""
        nonce = secrets.token_bytes(16)
        [answer] = self.answer(check_to_wire(self.cookie, nonce, self.key), now=now)
        assert answer is not None
        return answer_from_wire(answer, nonce, self.key)


@pytest.fixture
def bob(store: Store) -> Iterator[Asking]:
    talker = store.talker(BOB)
    with store.database.watch() as watch:
        yield Asking(talker, watch)


def test_a_check_counts_what_waits(store: Store, bob: Asking) -> None:
    alice, reader = store.talker(ALICE), store.talker(BOB)
    assert bob.ask() == Waiting(0, 0)
    first, second = (alice.keep(BOB, b"x")[0] for _ in range(2))
    alice.keep(ALICE, b"not for bob")
    at = serials.floor(NOW)
    assert bob.ask() == Waiting(2, at + 2)
    reader.ack(second)
    assert bob.ask() == Waiting(1, at + 1)
    alice.withdraw(first)
    assert bob.ask() == Waiting(0, 0)


def test_the_answers_of_one_moment_need_one_read_for_each_cookie(bob: Asking) -> None:
    queries = 0
    with bob.watch.look() as (connection, version):
        bob.checks.new_state(version)

        class Counting:
            def execute(self, *arguments: object) -> object:
                nonlocal queries
                queries += 1
                return connection.execute(*arguments)  # type: ignore[call-overload]

        for _ in range(100):
            data = check_to_wire(bob.cookie, secrets.token_bytes(16), bob.key)
            assert bob.checks.answer(data, Counting(), NOW)  # type: ignore[arg-type]
    assert queries == 2
    assert bob.counters["checks answered"] == 100


def test_without_a_version_every_burst_reads_anew(bob: Asking) -> None:
    bob.checks.new_state(None)
    assert bob.ask() == Waiting(0, 0)
    bob.checks.new_state(None)
    assert not bob.checks._known


def test_a_forged_check_gets_no_answer(bob: Asking) -> None:
    good = check_to_wire(bob.cookie, secrets.token_bytes(16), bob.key)
    forged = [check_to_wire(bob.cookie, secrets.token_bytes(16), bytes(32))]
    forged += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(24, CHECK_SIZE)]
    assert bob.answer(*forged) == [None] * len(forged)
    assert bob.counters["checks forged"] == len(forged)
    assert bob.checks.used == {}


def test_an_unknown_cookie_is_told_so_in_24_octets(bob: Asking) -> None:
    nonce = secrets.token_bytes(16)
    [answer] = bob.answer(check_to_wire(secrets.token_bytes(16), nonce, bob.key))
    assert answer == unknown_to_wire(nonce)
    assert len(answer) == 24


def test_a_deleted_cookie_is_unknown_at_once(bob: Asking) -> None:
    assert bob.ask() == Waiting(0, 0)
    with bob.database.write() as connection:
        connection.execute(cookies.delete())
    assert bob.ask() == Unknown()


def test_a_cookie_lives_for_90_days_after_its_use(bob: Asking) -> None:
    assert bob.ask(NOW + DAY) == Waiting(0, 0)
    assert bob.checks.used == {}  # noted once a day at most
    assert bob.ask(NOW + 2 * DAY) == Waiting(0, 0)
    assert bob.checks.used == {bob.cookie: NOW + 2 * DAY}
    sessions.touch_cookies(bob.database, list(bob.checks.used), NOW + 2 * DAY)
    assert bob.ask(NOW + 91 * DAY) == Waiting(0, 0)
    bob.checks.new_state(None)
    assert bob.ask(NOW + 92 * DAY) == Unknown()


GOOD = check_to_wire(bytes(16), bytes(16), bytes(32))
ANSWER = waiting_to_wire(bytes(16), 1, 1, bytes(32))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.binary(max_size=100)
    | st.tuples(st.integers(0, 23), st.integers(1, 255)).map(
        lambda change: GOOD[: change[0]] + bytes([GOOD[change[0]] ^ change[1]]) + GOOD[change[0] + 1 :]
    )
)
@example(b"")
@example(GOOD[:-1])
@example(GOOD + b"x")
@example(ANSWER)
@example(unknown_to_wire(bytes(16)))
def test_an_answer_is_never_longer_than_its_question(bob: Asking, data: bytes) -> None:
    [answer] = bob.answer(data)
    assert answer is None or (len(data) == CHECK_SIZE and len(answer) < CHECK_SIZE)
    if not data.startswith(b"STUB\x01\x01\x00\x00"):
        assert answer is None
        assert bob.counters["checks malformed"]
