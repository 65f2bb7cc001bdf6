"""Clocks that are wrong, jump, and jump back: what was asked once is not done twice, and what waits is not lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.post_manager.chores import EVERY, Chores
from services.post_manager.steady import PROBATION
from services.post_manager.storage import sessions
from tests.support.store import NOW, Clock, Person, Store, Talker, code, running_store

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
DAY, HOUR, YEAR = 86_400, 3_600, 365 * 86_400
LIST: dict[str, Any] = {"senders": [], "after": 0, "limit": 1}
JUMPS = [1_000, 2 * HOUR, 40 * DAY, YEAR]


class Time(Clock):
    """The store's clock, which can be set, and one beside it that only goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.monotonic = 5.0

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the clock."""
        self.now += seconds


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def store(tmp_path: Path, database_url: str, clock: Time) -> Iterator[Store]:
    with running_store(tmp_path, [ALICE], clock, database=database_url) as store:
        yield store


def make_chores(store: Store, clock: Time) -> Chores:
    """A process that has just started to look after the store."""
    return Chores(store.database, clock, 90 * DAY, monotonic=lambda: clock.monotonic)


def pass_time(chores: Chores, clock: Time, seconds: int) -> None:
    """Let time pass, while the chores are looked after."""
    for _ in range(0, seconds, EVERY):
        chores.look()
        clock.go(EVERY)
    chores.look()


@pytest.mark.parametrize("sign", [1, -1], ids=["fast", "slow"])
def test_a_request_may_be_five_minutes_off_and_not_more(store: Store, sign: int) -> None:
    bob = store.talker(BOB)
    for off in (0, 299, 300):
        assert bob.send("list", LIST, time=NOW + sign * off).status_code == 200
    for off in (301, 302, 5_000, 10**9):
        refused = bob.send("list", LIST, time=NOW + sign * off)
        assert (code(refused), refused.status_code) == ("clock-skew", 403)
        said = refused.get_json()
        assert f"your clock is {off} seconds {'fast' if sign > 0 else 'slow'}" in said["message"]
        assert said["time"] == NOW
    for off, expected in ((299, "ok"), (301, "clock-skew")):
        response = Talker(store, BOB).open(time=NOW + sign * off)
        assert (code(response) if response.status_code != 200 else "ok") == expected


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_and_back_makes_no_nonce_good_again(store: Store, clock: Time, jump: int) -> None:
    bob, chores = store.talker(BOB), make_chores(store, clock)
    pass_time(chores, clock, 2 * EVERY)
    asked: dict[str, Any] = {"nonce": "ab" * 16, "time": int(clock.now)}
    assert bob.send("list", LIST, **asked).status_code == 200
    clock.jump(jump)
    pass_time(chores, clock, 3 * EVERY)
    clock.jump(-jump)
    pass_time(chores, clock, EVERY)
    assert code(bob.send("list", LIST, **asked)) == "replayed"


@pytest.mark.parametrize("jump", [*JUMPS, *(-jump for jump in JUMPS)])
def test_a_jump_and_back_loses_nothing_that_waits(store: Store, clock: Time, jump: int) -> None:
    alice, chores = store.talker(ALICE), make_chores(store, clock)
    pass_time(chores, clock, 2 * EVERY)
    fetched, waiting = (alice.keep(BOB, b"body")[0] for _ in range(2))
    store.talker(BOB).ack(fetched)
    clock.jump(jump)
    pass_time(chores, clock, 3 * EVERY)
    clock.jump(-jump)
    pass_time(chores, clock, PROBATION + 2 * EVERY)
    alice.open()
    assert {sent["id"]: sent["state"] for sent in alice.outbox()} == {
        fetched.hex(): "fetched",
        waiting.hex(): "waiting",
    }
    [(_, content)] = store.talker(BOB).fetch((waiting, 0))
    assert content == b"headbody"


def test_a_machine_that_starts_with_a_wrong_clock_deletes_nothing_until_it_is_set(store: Store, clock: Time) -> None:
    alice = store.talker(ALICE)
    post_id, _ = alice.keep(BOB, b"body")
    pass_time(make_chores(store, clock), clock, EVERY)
    clock.jump(YEAR)
    chores = make_chores(store, clock)
    pass_time(chores, clock, PROBATION - EVERY)
    clock.jump(-YEAR)
    pass_time(chores, clock, PROBATION + EVERY)
    alice.open()
    assert [sent["state"] for sent in alice.outbox()] == ["waiting"]
    clock.jump(30 * DAY)  # a clock that is right at last, or was off for so long
    pass_time(chores, clock, PROBATION + EVERY)
    alice.open()
    assert [(sent["id"], sent["state"]) for sent in alice.outbox()] == [(post_id.hex(), "expired")]


@pytest.mark.parametrize("jump", [2 * HOUR, YEAR])
def test_chores_go_on_when_the_clock_was_set_back(store: Store, clock: Time, jump: int) -> None:
    alice, chores = store.talker(ALICE), make_chores(store, clock)
    clock.jump(jump)
    pass_time(chores, clock, 2 * EVERY)
    clock.jump(-jump)
    alice.open()
    post_id, _ = alice.keep(BOB, b"body")
    clock.go(30 * DAY)
    pass_time(chores, clock, PROBATION + EVERY)
    alice.open()
    assert {sent["state"] for sent in alice.outbox() if sent["id"] == post_id.hex()} == {"expired"}


@pytest.mark.parametrize("jump", [2 * HOUR, YEAR])
def test_sessions_that_were_opened_ahead_of_time_end_with_the_jump(store: Store, clock: Time, jump: int) -> None:
    clock.jump(jump)
    bob = store.talker(BOB)
    assert bob.send("list", LIST).status_code == 200
    clock.jump(-jump)
    assert code(bob.send("list", LIST)) == "session"
    clock.go(HOUR)
    assert code(bob.send("list", LIST)) == "session"


def test_sessions_from_ahead_of_time_are_in_nobodys_way(store: Store, clock: Time) -> None:
    """Sixteen of them would be the newest for a year."""
    clock.jump(YEAR)
    for _ in range(sessions.SESSIONS_EACH + 1):
        store.talker(BOB)
    clock.jump(-YEAR)
    talkers = []
    for _ in range(sessions.SESSIONS_EACH):
        clock.go(10)
        talkers.append(store.talker(BOB))
    assert {talker.send("list", LIST).status_code for talker in talkers} == {200}
    clock.go(10)
    newest = store.talker(BOB)
    clock.go(10)  # what a process keeps in memory of a session that gave way is over
    assert [code(talkers[0].send("list", LIST)), newest.send("list", LIST).status_code] == ["session", 200]


def test_a_session_of_a_replica_whose_clock_is_a_little_ahead_is_good(store: Store, clock: Time) -> None:
    clock.jump(200)
    bob = store.talker(BOB)
    clock.jump(-200)
    assert bob.send("list", LIST).status_code == 200


def test_whoever_has_used_up_his_rate_waits_no_longer_because_the_clock_was_set_back(
    tmp_path: Path, clock: Time
) -> None:
    with running_store(tmp_path, [ALICE], clock, rate_client=1) as store:
        bob = store.talker(BOB)
        while (response := bob.send("list", LIST)).status_code == 200:
            pass
        assert code(response) == "rate"
        clock.jump(-250)
        assert code(bob.send("list", LIST)) == "rate"
        clock.go(2)
        assert bob.send("list", LIST).status_code == 200
