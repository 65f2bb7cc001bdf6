"""Whether the puller is ready, and its metrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.http2mbox.counters import Counters
from services.http2mbox.state import Standing, StateError
from services.http2mbox.status import Status
from services.http2mbox.tally import Tally
from stubmail.errors import TemporaryError


class FakeAccounts:
    """Stands for the open accounts."""

    def __init__(self) -> None:
        self.open: list[str] = ["bob"]
        self.failures: dict[str, Any] = {}
        self.broken = False

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.open)

    def standings(self) -> list[Standing]:
        if self.broken:
            raise StateError("4.3.0", "the state file: disk I/O error")
        return [Standing(2, 3, 1) for _ in self.open]


class Rig:
    def __init__(self) -> None:
        self.accounts = FakeAccounts()
        self.now = 1000.0
        self.draining = False
        self.counters = Counters()
        self.status = Status(self.accounts, self.counters, 60.0, lambda: self.draining, lambda: self.now)  # type: ignore[arg-type]

    def ready(self) -> tuple[int, dict[str, str]]:
        answer = self.status.pages["/readyz"]()
        return answer.status, json.loads(answer.body)["checks"]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_it_is_ready_while_rounds_begin_and_an_account_is_open(rig: Rig) -> None:
    rig.accounts.failures["eve"] = TemporaryError("4.3.0", "her key cannot be used")
    assert rig.ready() == (200, dict.fromkeys(("running", "rounds", "accounts", "state"), "ok"))


def test_what_is_wrong_is_named(rig: Rig) -> None:
    rig.accounts.open.clear()
    rig.accounts.failures["bob"] = TemporaryError("4.3.0", "his key cannot be used")
    rig.accounts.broken = True
    rig.draining = True
    rig.now += 1000
    status, checks = rig.ready()
    assert status == 503
    assert checks == {
        "running": "the puller is draining: it is about to end",
        "rounds": "the last round began 1000 seconds ago",
        "accounts": "his key cannot be used",
        "state": "the state file: disk I/O error",
    }


def test_metrics_are_counters_and_gauges(rig: Rig) -> None:
    rig.counters.add("rounds")
    rig.counters.pulled(Tally(delivered=5, held=1, notices=1, complete=True), False, 0.2)
    rig.counters.pulled(Tally(), True, 3.0)
    text = rig.status.metrics().body.decode()
    for line in (
        "stubmail_puller_rounds_total 1.0",
        'stubmail_puller_pulls_total{outcome="complete"} 1.0',
        'stubmail_puller_pulls_total{outcome="failed"} 1.0',
        'stubmail_puller_posts_total{outcome="delivered"} 5.0',
        'stubmail_puller_checks_total{outcome="silent"} 0.0',
        'stubmail_puller_notices_total{about="held"} 1.0',
        "stubmail_puller_held_posts 2.0",
        "stubmail_puller_strangers_posts 3.0",
        "stubmail_puller_key_mismatches 1.0",
        'stubmail_puller_accounts{state="open"} 1.0',
    ):
        assert f"{line}\n" in text
    rig.accounts.broken = True
    assert "held_posts" not in rig.status.metrics().body.decode()


def test_counts_go_on_in_the_next_process(tmp_path: Path) -> None:
    first = Counters(tmp_path)
    first.add("rounds")
    first.close()
    second = Counters(tmp_path)
    second.add("rounds")
    assert second["rounds"] == 2
    second.close()


def test_without_room_for_the_file_it_counts_for_itself(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "none")
    counters.add("rounds")
    assert counters["rounds"] == 1
