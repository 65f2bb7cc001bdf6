"""What the gateway decides without asking anybody: routes, times, replies, and what is due."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.smtp2stub.agenda import Agenda
from services.smtp2stub.replies import enhance
from services.smtp2stub.schedule import JITTER, Schedule
from stubmail.errors import PermanentError, TemporaryError
from stubmail.routing import Policy, Route, decide


@pytest.mark.parametrize("smarthost", [True, False])
@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("policy", [Policy.REQUIRE, Policy.PREFER])
def test_who_offers_stub_mail_gets_it(policy: Policy, remembered: bool, smarthost: bool) -> None:
    assert decide("beta.example", offered=True, policy=policy, remembered=remembered, smarthost=smarthost) is Route.STUB


@pytest.mark.parametrize("policy", [Policy.REQUIRE, Policy.PREFER])
def test_a_domain_that_had_stub_mail_never_gets_clear_text(policy: Policy) -> None:
    with pytest.raises(TemporaryError, match=r"stubmail domains forget beta\.example"):
        decide("beta.example", offered=False, policy=policy, remembered=True, smarthost=True)


def test_other_domains_get_what_the_policy_says() -> None:
    assert decide("l.example", offered=False, policy=Policy.PREFER, remembered=False, smarthost=True) is Route.SMARTHOST
    for offered in (True, False):
        never = decide("l.example", offered=offered, policy=Policy.NEVER, remembered=True, smarthost=True)
        assert never is Route.SMARTHOST
    with pytest.raises(PermanentError, match="no smarthost"):
        decide("l.example", offered=False, policy=Policy.PREFER, remembered=False, smarthost=False)
    with pytest.raises(PermanentError, match="nothing else"):
        decide("l.example", offered=False, policy=Policy.REQUIRE, remembered=False, smarthost=True)


@given(st.integers(1, 10_000), st.floats(0, 1e6), st.integers())
def test_delays_grow_within_bounds(attempts: int, age: float, seed: int) -> None:
    schedule = Schedule(5, 3600, 1e6)
    now = 1_800_000_000.0
    then = schedule.next_try(attempts, now - age, now, random.Random(seed))
    nominal = min(3600, 5 * 2 ** min(attempts - 1, 64))
    end = now - age + 1e6
    assert then == end or now + nominal * (1 - JITTER) <= then <= now + nominal * (1 + JITTER)
    assert then > now


def test_the_last_attempt_falls_on_the_end_of_the_lifetime() -> None:
    schedule = Schedule(5, 3600, 100)
    assert schedule.next_try(12, 1000.0, 1050.0, random.Random(1)) == 1100.0
    assert not schedule.expired(1000.0, 1099.9)
    assert schedule.expired(1000.0, 1100.0)
    assert schedule.next_try(12, 1000.0, 1100.0, random.Random(1)) > 1100.0


def test_the_agenda_gives_out_each_message_once_when_it_is_due() -> None:
    agenda = Agenda()
    agenda.put("B", 20.0)
    agenda.put("A", 10.0)
    agenda.put("C", 30.0)
    agenda.put("C", 5.0)
    assert agenda.next() == 5.0
    assert [agenda.pop(20.0) for _ in range(4)] == ["C", "A", "B", None]
    assert agenda.next() is None
    assert len(agenda) == 3
    agenda.put("A", 40.0)
    agenda.remove("A")
    assert agenda.pop(100.0) is None


def test_what_is_held_is_not_due_until_it_is_released() -> None:
    agenda = Agenda()
    agenda.put("A", 10.0)
    agenda.hold(["A", "unknown"])
    assert agenda.is_held("A")
    assert agenda.pop(50.0) is None
    agenda.put("A", 20.0)
    agenda.hold([])
    assert agenda.next() == 20.0
    assert agenda.pop(50.0) == "A"


@given(
    st.lists(
        st.tuples(st.sampled_from("ABCD"), st.sampled_from(["put", "hold", "free", "remove", "pop"]), st.floats(0, 9))
    )
)
def test_an_agenda_never_gives_out_what_is_held_removed_or_not_due(steps: list[tuple[str, str, float]]) -> None:
    agenda, when, held = Agenda(), dict[str, float](), set[str]()
    for name, step, number in steps:
        if step == "put":
            agenda.put(name, number)
            when[name] = number
        elif step == "remove":
            agenda.remove(name)
            when.pop(name, None)
        elif step == "pop":
            due = [n for n, at in when.items() if n not in held and at <= number]
            popped = agenda.pop(number)
            assert (popped in due) if due else (popped is None)
            if popped is not None:
                when[popped] = float("inf")
        else:
            (held.add if step == "hold" else held.discard)(name)
            agenda.hold(held)


@pytest.mark.parametrize(
    ("reply", "enhanced"),
    [
        ("250 OK", "250 2.0.0 OK"),
        ("221 Bye", "221 2.0.0 Bye"),
        ("503 Error: send HELO first", "503 5.5.1 say EHLO first"),
        ('500 Error: command "XX" not recognized', '500 5.5.2 command "XX" not recognized'),
        ("500 a\rb\nc", "500 5.5.2 a?b?c"),
        ("250 2.1.5 go on", "250 2.1.5 go on"),
        ("354 go on", "354 go on"),
        ("334 VXNlcm5hbWU6", "334 VXNlcm5hbWU6"),
        ("220 alpha.example ESMTP", "220 alpha.example ESMTP"),
        ("220 Ready to start TLS", "220 2.0.0 ready to start TLS"),
        ("501 Syntax: MAIL FROM: <address>", "501 5.5.4 Syntax: MAIL FROM: <address>"),
    ],
)
def test_replies_get_enhanced_status_codes(reply: str, enhanced: str) -> None:
    assert enhance(reply) == enhanced
