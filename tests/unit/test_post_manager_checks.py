"""UDP checks: an authentic one is answered truly, everything else by nothing or by something shorter."""

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.post_manager.cookie_ids import CookieIds
from services.post_manager.counters import Counters
from services.post_manager.storage import serials, sessions
from services.post_manager.storage.keys import store_key
from services.post_manager.storage.schema import cookies
from services.post_manager.storage.watch import Known, State, Watch
from services.post_manager.tokens import Tokens
from services.post_manager.udp.checks import DAY, MAX_REMEMBERED, Checks
from services.post_manager.udp.udp_socket import Arrived
from stubmail.datagram import (
    CHECK_SIZE,
    MacKey,
    Unknown,
    Waiting,
    answer_from_wire,
    check_to_wire,
    token_from_wire,
    token_request_to_wire,
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


PEER = ("192.0.2.1", 40_000)


class Asking:
    """A notifier without its socket, and the cookie of somebody who asks it."""

    def __init__(self, talker: Talker, watch: Watch) -> None:
        self.database = talker.store.database
        self.watch = watch
        self.cookie = bytes.fromhex(talker.session["cookie"])
        self.key = bytes.fromhex(talker.session["cookie_key"])
        self.counters = Counters()
        self.store_key = store_key(self.database)
        self.checks = self.new_checks()

    def new_checks(self, remember: int = MAX_REMEMBERED) -> Checks:
        """A notifier's memory, empty."""
        return Checks(self.counters, CookieIds(self.store_key), Tokens(self.store_key), remember)

    def answer(self, *datagrams: bytes, now: int = NOW) -> list[bytes | None]:
        """What comes back for datagrams that arrive together."""
        arrived = [Arrived(data, PEER, []) for data in datagrams]
        state = self.watch.look()
        answers = {id(question): octets for octets, question in self.checks.answer(arrived, state, now)}
        return [answers.get(id(question)) for question in arrived]

    def ask(self, now: int = NOW) -> Waiting | Unknown:
        """Ask once, as a client does."""
        nonce = secrets.token_bytes(16)
        [answer] = self.answer(check_to_wire(self.cookie, nonce, self.key), now=now)
        assert answer is not None
        return answer_from_wire(answer, nonce, self.key)


@pytest.fixture
def bob(store: Store) -> Iterator[Asking]:
    talker = store.talker(BOB)
    with store.database.watch() as connection:
        yield Asking(talker, Watch(connection))


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


class Counting(State):
    """Counts which cookies are read."""

    def __init__(self, state: State) -> None:
        super().__init__(state.version, state._read)
        self.ids: list[bytes] = []

    def cookies(self, ids: Sequence[bytes], now: int) -> dict[bytes, Known]:
        self.ids += ids
        return super().cookies(ids, now)


def test_the_answers_of_one_state_need_one_read_of_each_cookie(bob: Asking) -> None:
    def burst(key: bytes) -> list[Arrived]:
        return [Arrived(check_to_wire(bob.cookie, secrets.token_bytes(16), key), PEER, []) for _ in range(100)]

    state = bob.watch.look()
    counting = Counting(state)
    assert len(bob.checks.answer(burst(bob.key), counting, NOW)) == 100
    assert len(bob.checks.answer(burst(bob.key), counting, NOW)) == 100
    assert counting.ids == [bob.cookie]
    with bob.database.write() as connection:
        connection.execute(cookies.update().values(used=NOW + 1))
    state = bob.watch.look()
    counting = Counting(state)
    assert bob.checks.answer(burst(bytes(32)), counting, NOW) == []
    assert counting.ids == [], "a forged check costs no read, whatever has changed"
    assert len(bob.checks.answer(burst(bob.key), counting, NOW)) == 100
    assert counting.ids == [bob.cookie]
    assert bob.counters["checks answered"] == 300
    assert bob.counters["checks forged"] == 100


def test_made_up_cookies_cost_no_read(bob: Asking) -> None:
    arrived = [Arrived(check_to_wire(secrets.token_bytes(16), bytes(16), bytes(32)), PEER, []) for _ in range(100)]
    state = bob.watch.look()
    counting = Counting(state)
    assert len(bob.checks.answer(arrived, counting, NOW)) == 100
    assert counting.ids == []
    assert len(bob.checks) == 0
    assert bob.counters["checks unknown"] == 100


def test_a_deleted_cookie_is_read_once_in_a_burst_and_not_remembered(bob: Asking) -> None:
    deleted = CookieIds(bob.store_key).new()
    arrived = [Arrived(check_to_wire(deleted, secrets.token_bytes(16), bytes(32)), PEER, []) for _ in range(64)]
    state = bob.watch.look()
    counting = Counting(state)
    assert {len(answer[0]) for answer in bob.checks.answer(arrived, counting, NOW)} == {24}
    assert counting.ids == [deleted]
    assert len(bob.checks) == 0


def test_memory_is_bounded(store: Store, bob: Asking) -> None:
    bob.checks = bob.new_checks(remember=3)
    others = [Asking(store.talker(BOB), bob.watch) for _ in range(5)]
    for other in (bob, *others):
        other.checks = bob.checks
        assert other.ask() == Waiting(0, 0)
        assert len(bob.checks) <= 3
    assert bob.ask() == Waiting(0, 0)


def test_cookie_ids_show_who_made_them(bob: Asking) -> None:
    ids = CookieIds(bob.store_key)
    mine = ids.new()
    assert len(mine) == 16
    assert ids.made_here(mine)
    assert ids.made_here(bob.cookie)
    assert CookieIds(bytes(32)).made_here(mine) is False
    assert not any(ids.made_here(mine[:at] + bytes([mine[at] ^ 1]) + mine[at + 1 :]) for at in range(16))


def test_a_token_is_given_to_whoever_asks(bob: Asking) -> None:
    nonce = secrets.token_bytes(16)
    [answer] = bob.answer(token_request_to_wire(nonce))
    assert answer is not None
    token = token_from_wire(answer, nonce)
    assert Tokens(bob.store_key).good(token.octets, PEER[0], NOW)
    assert 0 < token.lifetime <= 600
    assert bob.counters["tokens given"] == 1
    assert bob.answer(token_request_to_wire(nonce)[:-1] + b"x") == [None]


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
    bob.checks = bob.new_checks()
    assert bob.ask(NOW + 92 * DAY) == Unknown()


GOOD = check_to_wire(bytes(16), bytes(16), bytes(32))
ANSWER = waiting_to_wire(bytes(16), 1, 1, MacKey(bytes(32)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200)
@given(
    st.binary(max_size=100)
    | st.binary(max_size=80).map(lambda tail: b"STUB\x01\x04\0\0" + tail)
    | st.tuples(st.integers(0, 23), st.integers(1, 255)).map(
        lambda change: GOOD[: change[0]] + bytes([GOOD[change[0]] ^ change[1]]) + GOOD[change[0] + 1 :]
    )
)
@example(b"")
@example(GOOD[:-1])
@example(token_request_to_wire(bytes(16)))
@example(GOOD + b"x")
@example(ANSWER)
@example(unknown_to_wire(bytes(16)))
def test_an_answer_is_never_longer_than_its_question(bob: Asking, data: bytes) -> None:
    [answer] = bob.answer(data)
    assert answer is None or (len(data) == CHECK_SIZE and len(answer) < CHECK_SIZE)
    if not data.startswith((b"STUB\x01\x01\x00\x00", b"STUB\x01\x04\x00\x00")):
        assert answer is None
        assert bob.counters["checks malformed"]
