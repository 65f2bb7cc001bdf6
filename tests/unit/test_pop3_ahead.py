"""Who may hold messages that were read ahead."""

from services.pop3d.ahead import SLOW, Ahead


class Holder:
    def __init__(self) -> None:
        self.rested = 0

    def rest(self) -> None:
        self.rested += 1


def test_places_are_bounded_and_the_slow_make_room() -> None:
    ahead, first, second, third = Ahead(2), Holder(), Holder(), Holder()
    assert ahead.enter(first, 10.0)
    assert ahead.enter(second, 10.1)
    assert ahead.enter(first, 10.2), "a holder stays one"
    assert not ahead.enter(third, 10.0 + SLOW)
    assert not ahead.has(third)
    assert ahead.enter(third, 10.1 + SLOW)
    assert (first.rested, second.rested, third.rested) == (0, 1, 0)
    assert [ahead.has(holder) for holder in (first, second, third)] == [True, False, True]


def test_who_leaves_makes_room() -> None:
    ahead, first, second = Ahead(1), Holder(), Holder()
    ahead.leave(first)
    assert ahead.enter(first, 1.0)
    ahead.leave(first)
    assert ahead.enter(second, 1.0)
    assert first.rested == 0
