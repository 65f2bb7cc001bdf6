"""Whether a clock is believed: not for ten minutes after it jumped, nor when it starts far from where it was."""

from hypothesis import given
from hypothesis import strategies as st

from services.post_manager.steady import PROBATION, TOLERANCE, Steadiness
from stubmail.request import CLOCK_SKEW

NOW = 1_800_000_000
LOOK = 10  # seconds between two looks

JUMPS = st.one_of(st.floats(TOLERANCE + 0.1, 1e9), st.floats(-1e9, -TOLERANCE - 0.1))


def test_a_clock_that_goes_evenly_is_believed_at_once() -> None:
    for last in (0, NOW, NOW - PROBATION, NOW + CLOCK_SKEW):
        steadiness = Steadiness(last)
        assert all(steadiness.look(NOW + step, step) for step in range(0, 1000, LOOK))


@given(st.one_of(st.integers(1, NOW - PROBATION - 1), st.integers(NOW + CLOCK_SKEW + 1, 2 * NOW)))
def test_a_clock_that_starts_far_from_the_last_chore_has_to_prove_itself(last: int) -> None:
    steadiness = Steadiness(last)
    looks = [steadiness.look(NOW + step, step) for step in range(0, PROBATION + LOOK, LOOK)]
    assert looks == [False] * (PROBATION // LOOK) + [True]


@given(st.lists(st.tuples(st.integers(1, 30), JUMPS), min_size=1, max_size=4))
def test_a_jump_takes_ten_minutes_to_be_forgiven(jumps: list[tuple[int, float]]) -> None:
    """Each comes after so many quiet looks."""
    steadiness, offset, monotonic = Steadiness(NOW), float(NOW), 0
    assert steadiness.look(offset, monotonic)
    for quiet, jump in jumps:
        for _ in range(quiet):
            monotonic += LOOK
            steadiness.look(offset + monotonic, monotonic)
        offset += jump
        monotonic += LOOK
        assert not steadiness.look(offset + monotonic, monotonic)
    looks = [steadiness.look(offset + monotonic + step, monotonic + step) for step in range(LOOK, 2 * PROBATION, LOOK)]
    assert looks.index(True) == PROBATION // LOOK - 1
    assert all(looks[looks.index(True) :])


def test_a_clock_that_is_adjusted_gradually_is_believed() -> None:
    steadiness = Steadiness(NOW)
    assert all(steadiness.look(NOW + step * 1.0005, step) for step in range(0, 100_000, LOOK))  # 500 ppm, NTP's most
