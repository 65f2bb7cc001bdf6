"""When to ask: backing off, and what an answer by UDP can spare."""

import random

import pytest

from services.http2mbox.schedule import (
    LONGEST_DELAY,
    Backoff,
    is_news,
    next_full_check,
    next_round,
    worth_checking,
)
from stubmail.cookies import Seen
from stubmail.datagram import Waiting

SEEN = Seen(serial=10, senders="digest", until=5000.0)


def test_what_fails_again_and_again_is_left_alone_longer_and_longer_but_not_for_ever() -> None:
    backoff = Backoff(random.Random(1))
    now, delays = 100.0, []
    for _ in range(20):
        assert backoff.ready(now)
        delays.append(backoff.failed(now))
        assert not backoff.ready(now + delays[-1] * 0.99)
        now += delays[-1]
    assert 0.75 <= delays[0] <= 1.25
    assert delays[3] > delays[0] * 4
    assert LONGEST_DELAY * 0.75 <= delays[-1] <= LONGEST_DELAY * 1.25


def test_success_forgets_failures() -> None:
    backoff = Backoff(random.Random(1))
    for _ in range(5):
        backoff.failed(100.0)
    backoff.succeeded()
    assert backoff.ready(100.0)
    assert backoff.failed(100.0) <= 1.25


@pytest.mark.parametrize(
    ("answer", "news"),
    [
        (Waiting(0, 0), False),
        (Waiting(3, 10), False),  # strangers' mail, or held
        (Waiting(1, 4), False),
        (Waiting(1, 11), True),
        (Waiting(0, 11), False),
    ],
)
def test_only_an_answer_with_nothing_new_spares_the_listing(answer: Waiting, news: bool) -> None:
    assert is_news(SEEN, answer) is news


@pytest.mark.parametrize(
    ("seen", "senders", "now", "worth"),
    [
        (SEEN, "digest", 4000.0, True),
        (None, "digest", 4000.0, False),
        (SEEN, "another", 4000.0, False),
        (SEEN, "digest", 5000.0, False),  # time for the full check
        (SEEN, "digest", 5000.0 - 3 * 3600, False),  # the clock went back
    ],
)
def test_a_check_is_made_only_while_the_last_listing_counts(
    seen: Seen | None, senders: str, now: float, worth: bool
) -> None:
    assert worth_checking(seen, senders, now, 3600.0) is worth


def test_rounds_and_full_checks_are_spread() -> None:
    rng = random.Random(2)
    assert len({next_round(1.0, rng) for _ in range(10)}) == 10
    assert all(0.9 <= next_round(1.0, rng) <= 1.1 for _ in range(100))
    assert all(100 + 3240 <= next_full_check(100.0, 3600.0, rng) <= 100 + 3960 for _ in range(100))


def test_a_store_that_fails_for_six_hours_is_asked_a_few_dozen_times() -> None:
    backoff, tries = Backoff(random.Random(1)), 0
    for now in range(6 * 3600):
        if backoff.ready(float(now)):
            backoff.failed(float(now))
            tries += 1
    assert 20 < tries < 50
