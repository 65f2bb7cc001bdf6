"""Limits and deadlines, with time passed in."""

import pytest

from services.pop3d.patience import Deadlines, Patience
from stubmail.limits import MAX_NETWORKS, FailureDelays, SessionLimit, is_loopback, network


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
    ],
)
def test_one_stranger_is_an_ipv4_address_or_an_ipv6_network(address: str, name: str) -> None:
    assert network(address) == name


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::2", False),
        ("192.0.2.1", False),
        ("x", False),
    ],
)
def test_loopback(address: str, local: bool) -> None:
    assert is_loopback(address) == local


def test_sessions_of_one_network_are_counted_apart_from_others() -> None:
    limit = SessionLimit(2)
    assert [limit.enter("a"), limit.enter("a"), limit.enter("a"), limit.enter("b")] == [True, True, False, True]
    limit.leave("a")
    assert limit.enter("a")


def test_each_failure_costs_twice_the_last_up_to_a_limit() -> None:
    delays = FailureDelays(0.25, 5.0, 30.0)
    assert [delays.failed("a", 0.0) for _ in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert delays.failed("b", 0.0) == 0.25


def test_failures_are_forgotten_with_time() -> None:
    delays = FailureDelays(0.25, 5.0, 30.0)
    for _ in range(4):
        delays.failed("a", 0.0)
    assert delays.failed("a", 60.0) == 0.5
    assert delays.failed("a", 100_000.0) == pytest.approx(0.25)


def test_a_flood_of_networks_does_not_fill_the_memory_and_endless_failures_do_not_overflow() -> None:
    delays = FailureDelays(0.25, 5.0, 30.0)
    for number in range(MAX_NETWORKS + 10):
        delays.failed(str(number), 0.0)
    assert delays.failed("0", 0.0) == 0.25
    assert [delays.failed("x", 0.0) for _ in range(3000)][-1] == 5.0


PATIENCE = Patience(login=60, idle=600, write=120)


def check(
    deadlines: Deadlines, now: float, *, logged_in: bool = True, busy: bool = False, written: int = 0, unsent: int = 0
):
    return deadlines.check(now, logged_in=logged_in, busy=busy, written=written, unsent=unsent)


def test_who_has_not_logged_in_in_time_must_go_however_busy() -> None:
    deadlines = Deadlines(PATIENCE, 0.0)
    deadlines.active(59.0)
    assert check(deadlines, 59.0, logged_in=False, busy=True) == ("", 60.0)
    assert check(deadlines, 60.0, logged_in=False, busy=True)[0] == "not logged in in time"


def test_ten_minutes_idle_count_from_the_last_command() -> None:
    deadlines = Deadlines(PATIENCE, 0.0)
    deadlines.active(100.0)
    assert check(deadlines, 600.0) == ("", 700.0)
    assert check(deadlines, 700.0)[0] == "idle"


def test_nobody_is_idle_while_the_server_works() -> None:
    assert check(Deadlines(PATIENCE, 0.0), 10_000.0, busy=True)[0] == ""


def test_a_slow_client_may_go_on_as_long_as_it_takes_something() -> None:
    deadlines = Deadlines(PATIENCE, 0.0)
    now, unsent = 0.0, 1000
    while unsent:
        reason, again = check(deadlines, now, written=1000, unsent=unsent)
        assert not reason
        assert again <= now + 30
        now, unsent = now + 110, unsent - 1
    assert now > 100_000
    assert check(deadlines, now, written=1000) == ("", now + 600 - 110)  # idle from the last that was seen to move


def test_a_client_that_takes_nothing_for_two_minutes_must_go() -> None:
    deadlines = Deadlines(PATIENCE, 0.0)
    now = 1000.0
    deadlines.active(now)
    reason, _ = check(deadlines, now, written=500, unsent=0)
    while not reason:
        reason, again = check(deadlines, now, written=5000, unsent=4000)
        now = max(now, again)
    assert reason == "takes nothing"
    assert now == 1120.0
