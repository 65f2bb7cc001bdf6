"""The memory of domains with stub mail: it lasts, it is bounded, and nobody can push others out of it."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from stubmail.known_domains import FORGOTTEN_AFTER, FULL_SECONDS, KnownDomains
from tests.support.gateway import NOW, Clock

DAY = 86_400.0


def test_it_lasts(tmp_path: Path) -> None:
    known = KnownDomains(tmp_path / "domains")
    assert "beta.example" not in known
    assert list(known) == []
    assert not (tmp_path / "domains").exists(), "looking changes nothing"
    assert known.remember("beta.example")
    assert "beta.example" in KnownDomains(tmp_path / "domains")
    assert "eta.example" not in known


def test_it_says_when_a_domain_was_seen_last(tmp_path: Path) -> None:
    clock = Clock()
    known = KnownDomains(tmp_path, clock=clock)
    known.remember("beta.example")
    clock.now += DAY / 2
    known.remember("beta.example")
    assert list(known) == [("beta.example", NOW)]
    clock.now += DAY
    known.remember("beta.example")
    assert list(known) == [("beta.example", clock.now)]


def test_what_is_forgotten_by_another_process_can_be_remembered_again(tmp_path: Path) -> None:
    known, command = KnownDomains(tmp_path), KnownDomains(tmp_path)
    known.remember("beta.example")
    assert command.forget("beta.example")
    assert not command.forget("beta.example")
    assert "beta.example" not in known
    assert known.remember("beta.example")
    assert "beta.example" in command


def test_without_room_old_acquaintances_stay_and_new_ones_are_not_made(tmp_path: Path) -> None:
    clock = Clock()
    known = KnownDomains(tmp_path, limit=3, clock=clock)
    for number in range(3):
        assert known.remember(f"d{number}.example")
    assert not any(known.remember(f"{name}.evil.example") for name in range(100))
    assert sorted(domain for domain, _ in known) == ["d0.example", "d1.example", "d2.example"]
    assert known.remember("d1.example")
    known.forget("d0.example")
    clock.now += FULL_SECONDS + 1
    assert known.remember("new.example")


def test_room_is_made_by_those_that_have_not_been_seen_for_more_than_a_year(tmp_path: Path) -> None:
    clock = Clock()
    known = KnownDomains(tmp_path, limit=3, clock=clock)
    for number in range(3):
        known.remember(f"d{number}.example")
    clock.now += FORGOTTEN_AFTER + 1
    known.remember("d1.example")
    assert "d0.example" in known, "while there is room nobody is forgotten"
    assert known.remember("new.example")
    assert sorted(domain for domain, _ in known) == ["d1.example", "new.example"]


def test_what_a_crash_left_is_no_domain(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123").write_bytes(b"")
    assert list(KnownDomains(tmp_path)) == []


def test_a_clock_that_was_wrong_does_not_keep_a_domain_young_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    known = KnownDomains(tmp_path, clock=clock)
    known.remember("beta.example")
    os.utime(tmp_path / "beta.example", (NOW + 1e8, NOW + 1e8))
    known.remember("beta.example")
    assert list(known) == [("beta.example", NOW)]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["see", "forget", "wait"])), max_size=40))
def test_it_never_holds_more_than_it_may(steps: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as directory:
        clock = Clock()
        known = KnownDomains(Path(directory), limit=3, clock=clock)
        expected: set[str] = set()
        for name, step in steps:
            if step == "see" and known.remember(name):
                expected.add(name)
            elif step == "forget":
                assert known.forget(name) == (name in expected)
                expected.discard(name)
            else:
                clock.now += FULL_SECONDS
            assert {domain for domain, _ in known} == expected
            assert len(expected) <= 3
