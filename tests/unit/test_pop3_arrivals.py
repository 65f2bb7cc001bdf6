"""Who has lately been heard of that is not logged in yet."""

from hypothesis import given
from hypothesis import strategies as st

from services.pop3d.arrivals import SECONDS, Arrivals


def test_nobody_makes_room_for_himself() -> None:
    arrivals = Arrivals()
    assert not arrivals.others("a", 0.0)
    arrivals.note("a", 10.0)
    assert not arrivals.others("a", 10.0)
    assert arrivals.others("b", 10.0)
    assert not arrivals.others("b", 10.0 + SECONDS)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, SECONDS / 3)), max_size=20), st.sampled_from("abcd"))
def test_others_are_those_who_came_a_moment_ago(came: list[tuple[str, float]], who: str) -> None:
    arrivals, now, last = Arrivals(), 100.0, dict[str, float]()
    for name, later in came:
        now += later
        arrivals.note(name, now)
        last[name] = now
    assert arrivals.others(who, now) == any(now < at + SECONDS for name, at in last.items() if name != who)
