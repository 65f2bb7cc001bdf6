"""The state file: what was delivered, held and seen survives, also the process that wrote it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from services.http2mbox.state import HeldPost, OtherSender, Standing, State, StateError, delivery_name, notice_name

ALICE_KEY, CAROL_KEY = "A1" * 20, "CA" * 20
ONE, TWO = bytes(16), bytes([1] * 16)
HELD = HeldPost(
    ONE, ALICE_KEY, "alpha.example", "alice@alpha.example", 9, "unsigned", "not signed", "", ALICE_KEY, False, "d1", 100
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    state = State(path)
    yield state
    state.close()


def test_delivered_posts_are_known_again(state: State, path: Path) -> None:
    state.record([delivery_name((ONE, ALICE_KEY))], 100)
    state.record([delivery_name((ONE, ALICE_KEY))], 200)
    again = State(path)
    assert again.delivered([(ONE, ALICE_KEY), (TWO, ALICE_KEY)]) == {(ONE, ALICE_KEY)}
    again.close()


def test_any_number_of_posts_may_be_asked_about(state: State) -> None:
    keys = [(number.to_bytes(16, "big"), ALICE_KEY) for number in range(5_000)]
    state.record([delivery_name(key) for key in keys[::2]], 1)
    assert state.delivered(iter(keys)) == set(keys[::2])
    assert state.delivered([]) == set()


def test_one_sender_cannot_use_up_another_ones_ids(state: State) -> None:
    state.record([delivery_name((ONE, CAROL_KEY))], 100)
    assert state.delivered([(ONE, ALICE_KEY)]) == set()


def test_old_posts_are_forgotten(state: State) -> None:
    state.record([delivery_name((ONE, ALICE_KEY))], 100)
    state.record([delivery_name((TWO, ALICE_KEY))], 200)
    state.forget_before(200)
    assert state.delivered([(ONE, ALICE_KEY), (TWO, ALICE_KEY)]) == {(TWO, ALICE_KEY)}


def test_a_held_post_is_told_once_for_each_reason(state: State) -> None:
    assert state.hold(HELD)
    assert not state.hold(HELD)
    assert state.hold(replace(HELD, reason="recipient"))
    assert state.held("alpha.example") == {(ONE, ALICE_KEY): replace(HELD, reason="recipient")}
    assert state.held("gamma.example") == {}


def test_what_is_delivered_or_gone_is_held_no_more(state: State) -> None:
    state.hold(HELD)
    state.hold(replace(HELD, id=TWO))
    state.record([delivery_name((ONE, ALICE_KEY))], 100)
    assert state.standing().held == 1
    state.unhold([(TWO, ALICE_KEY)])
    assert state.standing().held == 0


def test_other_senders_are_replaced_and_wrong_keys_told_once(state: State) -> None:
    stranger = OtherSender("5E" * 20, "eve@alpha.example", 3, "")
    wrong = OtherSender("5F" * 20, "alice@alpha.example", 2, ALICE_KEY)
    assert state.set_others("alpha.example", [stranger, wrong], 100) == [wrong]
    assert state.set_others("alpha.example", [stranger, wrong], 200) == []
    assert state.standing() == Standing(held=0, strangers=3, key_mismatches=1)
    assert state.set_others("alpha.example", [], 300) == []
    assert state.standing() == Standing(0, 0, 0)


def test_a_stranger_whom_two_domains_of_one_store_name_counts_once(state: State) -> None:
    stranger = OtherSender("5E" * 20, "eve@other.example", 3, "")
    state.set_others("alpha.example", [stranger], 100)
    state.set_others("gamma.example", [stranger], 100)
    assert state.standing().strangers == 3


def test_domains_without_correspondents_are_forgotten(state: State) -> None:
    state.hold(HELD)
    state.set_others("gamma.example", [OtherSender("5E" * 20, "eve@gamma.example", 3, "")], 100)
    state.keep_domains(["gamma.example"])
    assert state.standing() == Standing(0, 3, 0)
    state.keep_domains([])
    assert state.standing() == Standing(0, 0, 0)


def test_held_posts_with_wrong_keys_count_as_such(state: State) -> None:
    state.hold(replace(HELD, is_key_mismatch=True))
    assert state.standing() == Standing(1, 0, 1)


def test_a_file_that_is_no_state_is_an_error_that_says_so(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(StateError):
        State(path)


def test_a_file_of_a_later_version_is_not_touched(path: Path) -> None:
    State(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StateError, match="version 99"):
        State(path)


def test_a_closed_state_refuses(path: Path) -> None:
    state = State(path)
    state.close()
    with pytest.raises(StateError):
        state.record([delivery_name((ONE, ALICE_KEY))], 100)


def test_posts_of_our_own_are_told_of_under_one_name(state: State, path: Path) -> None:
    state.record([notice_name([ONE, TWO]), delivery_name((ONE, ALICE_KEY))], 100)
    state.set_watch(90.5, 200.25)
    again = State(path)
    assert again.told([ONE, TWO, bytes([2] * 16)]) == {ONE, TWO}
    assert again.watch() == (90.5, 200.25)
    again.forget_before(101)
    assert again.told([ONE, TWO]) == again.delivered([(ONE, ALICE_KEY)]) == set()
    again.close()


def test_a_file_of_the_first_version_goes_on(state: State, path: Path) -> None:
    state.record([delivery_name((ONE, ALICE_KEY))], 100)
    state.close()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "DROP TABLE told; DROP TABLE watch; DROP TABLE warned; DROP TABLE refused;"
            "ALTER TABLE held DROP COLUMN decision; PRAGMA user_version = 1;"
        )
    again = State(path)
    assert again.delivered([(ONE, ALICE_KEY)]) == {(ONE, ALICE_KEY)}
    assert again.told([ONE]) == set()
    assert again.watch() == (0, 0)
    again.close()
