"""When a batch of requests begins: at once for who is alone, soon for everybody."""

from hypothesis import given
from hypothesis import strategies as st

from stubmail.wsgi_pace import LINGER_SECONDS, MOST, SLOW_SECONDS, Pace


def test_who_is_alone_never_waits() -> None:
    pace = Pace()
    for now in (1.0, 2.0, 3.0):
        assert pace.may_begin(1, now)
        pace.ended(pace.began(now), answered=1, waiting=0)


def test_those_who_were_just_answered_are_waited_for() -> None:
    pace = Pace()
    pace.ended(pace.began(0.0), answered=5, waiting=3)
    assert not pace.may_begin(7, 1.0)
    assert pace.patience(7) == LINGER_SECONDS
    assert pace.may_begin(8, 1.0 + LINGER_SECONDS / 2)


def test_but_not_for_long_and_not_again() -> None:
    pace = Pace()
    pace.ended(pace.began(0.0), answered=8, waiting=0)
    assert not pace.may_begin(1, 1.0)
    assert pace.may_begin(1, 1.0 + LINGER_SECONDS)
    pace.ended(pace.began(1.1), answered=1, waiting=0)
    assert pace.may_begin(1, 2.0)


def test_a_slow_batch_keeps_nobody_waiting_up_to_a_number_of_them() -> None:
    pace = Pace()
    now = 0.0
    for _ in range(MOST):
        assert pace.may_begin(1, now)
        pace.began(now)
        assert not pace.may_begin(1, now + SLOW_SECONDS / 2)
        assert pace.patience(1) == SLOW_SECONDS
        now += SLOW_SECONDS * 1.01
    assert not pace.may_begin(1, now)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40)), max_size=20))
def test_with_nothing_running_a_batch_begins_within_the_time_to_linger(batches: list[tuple[int, int, int]]) -> None:
    pace, now = Pace(), 0.0
    for waiting, answered, left in batches:
        now += 1
        if not pace.may_begin(waiting, now):
            now += pace.patience(waiting)
            assert pace.may_begin(waiting, now)
        pace.ended(pace.began(now), answered, left)
    assert not pace.may_begin(0, now)
    assert pace.patience(0) == float("inf")
