"""Rounds over accounts and domains: who is asked how, what is remembered, and that nobody waits for anybody else."""

import asyncio
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from services.http2mbox.account import Account
from services.http2mbox.checks import Place
from services.http2mbox.counters import Counters
from services.http2mbox.pull import Client, Limits
from services.http2mbox.puller import Puller
from services.http2mbox.report import Report
from services.http2mbox.state import Standing
from services.http2mbox.turns import Turns
from services.http2mbox.visits import Visits
from services.http2mbox.workers import MemoryGate, Workers
from stubmail.address import Address
from stubmail.cookies import Cookie
from stubmail.datagram import Unknown, Waiting
from stubmail.discovery import Store, StubDomain, Target
from stubmail.errors import TemporaryError
from stubmail.openpgp import Certificate
from stubmail.pull_state import RELEASE
from stubmail.store_answers import Listing
from tests.support.fake_store import (
    ALICE,
    ALICE_KEY,
    STRANGER_KEY,
    FakeStore,
    ListMaildrop,
    certificate,
    honest_message,
    make_account,
    seal_plainly,
)

ALPHA = Store("post.alpha.example", 8080, "post_manager")


@dataclass
class World:
    """DNS, UDP and stores as a test wants them: ``domains`` says what each offers, ``answers`` what UDP says."""

    stores: dict[str, Any] = field(default_factory=dict)  # by host
    domains: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)  # by IP address; an answer, None, or a function
    asked: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    now: float = 1_700_000_000.0

    def add(self, domain: str, *, udp: bool = True) -> FakeStore:
        host = f"post.{domain}"
        self.domains[domain] = StubDomain(
            domain,
            (Target(host, 2225),) if udp else (),
            (Target(host, 11371),),
            (Store(host, 8080, "post_manager"),),
        )
        return self.stores.setdefault(host, FakeStore())

    def discover(self, domain: str) -> StubDomain | None:
        found = self.domains.get(domain)
        if isinstance(found, Exception):
            raise found
        return found() if callable(found) else found

    def addresses(self, host: str) -> list[str]:
        if host.startswith("lost."):
            raise TemporaryError("4.4.3", "no such host")
        return [f"ip-of-{host}"]

    async def ask(self, places: Sequence[Place], cookie: Cookie) -> tuple[Place, Waiting | Unknown] | None:
        for place in places:
            self.asked.append(place[0].removeprefix("ip-of-"))
            answer = self.answers.get(self.asked[-1])
            if callable(answer):
                answer = answer()
            if answer is not None:
                return place, answer
        return None

    def connect(self, account: Account, store: Store) -> Client:
        self.opened.append(store.host)
        account.jar.put(store.url, bytes(16), bytes(32))  # as a client does with the cookie of its first session
        found = self.stores[store.host]
        return found() if callable(found) else found


class Rig:
    """A puller in that world, for bob, whose correspondent is alice."""

    def __init__(
        self, directory: Path, *, limits: Limits | None = None, certificates: Sequence[Certificate] = ()
    ) -> None:
        self.world = World()
        self.store = self.world.add("alpha.example")
        self.maildrop = ListMaildrop()
        self.account = make_account(directory, self.maildrop, *certificates)
        self.workers, self.lookups = Turns(4, patience=0.02), Turns(4, patience=0.02)
        self.runner = asyncio.Runner()
        self.limits = limits or Limits(100_000)
        self.puller = self.make()

    def make(self) -> Puller:
        rng, clock = random.Random(1), lambda: self.world.now
        self.counters = Counters()
        world = self.world
        visits = Visits(world, world, world.connect, self.limits, self.counters, rng=rng, clock=clock)
        puller = Puller(visits, self.limits, self.workers, self.counters, rng=rng, lookups=self.lookups)
        puller.set_accounts([self.account])
        return puller

    def round(self, *, full: bool = False) -> Report:
        """One round to its end."""

        async def run():
            self.puller.start_round(full=full)
            await asyncio.wait_for(self.puller.finish(), 20)

        self.runner.run(run())
        return self.puller.report

    def restart(self) -> None:
        """Another process: only what is on disk remains."""
        self.account.jar.save()
        self.puller = self.make()

    def close(self) -> None:
        self.account.close()
        self.workers.shutdown()
        self.lookups.shutdown()
        self.runner.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def test_the_first_round_asks_over_http_and_gets_a_cookie(rig: Rig) -> None:
    rig.store.put_message(1)
    report = rig.round()
    assert (report.delivered, report.domains, report.listings, report.checks) == (1, {"alpha.example"}, 1, 0)
    assert rig.world.asked == []
    assert rig.account.jar.get(ALPHA.url).seen.serial == 1


def test_later_rounds_ask_by_udp_and_nothing_new_costs_no_http(rig: Rig) -> None:
    rig.store.put_message(1)
    rig.round()
    rig.world.answers[ALPHA.host] = Waiting(0, 0)
    rig.round()
    rig.restart()
    report = rig.round()
    assert rig.world.asked == [ALPHA.host] * 2
    assert rig.store.calls.count("list") == 1
    assert (report.checks, report.listings, report.domains) == (1, 0, {"alpha.example"})


def test_mail_is_fetched_when_udp_says_so_in_the_same_session(rig: Rig) -> None:
    rig.round()
    rig.store.put_message(1)
    rig.world.answers[ALPHA.host] = Waiting(1, 1)
    assert rig.round().delivered == 1
    assert rig.world.opened == [ALPHA.host]


def test_strangers_mail_that_waits_is_no_news(rig: Rig) -> None:
    rig.store.put(bytes(16), b"x", sender=STRANGER_KEY)
    rig.round()
    rig.world.answers[ALPHA.host] = Waiting(1, 1)
    rig.round()
    assert rig.store.calls.count("list") == 1


@pytest.mark.parametrize("answer", [None, Unknown()])
def test_silence_and_an_unknown_cookie_lead_to_http(rig: Rig, answer: object) -> None:
    rig.round()
    rig.store.put_message(1)
    rig.world.answers[ALPHA.host] = answer
    assert rig.round().delivered == 1
    assert len(rig.world.opened) == (2 if isinstance(answer, Unknown) else 1)  # only a new session gives a new cookie


def test_udp_that_stays_silent_is_left_alone_for_a_while(rig: Rig) -> None:
    rig.round()
    rig.round()
    rig.round()
    assert rig.world.asked == [ALPHA.host]
    assert rig.store.calls.count("list") == 3


def test_a_domain_without_udp_is_asked_over_http(tmp_path: Path, rig: Rig) -> None:
    rig.world.add("alpha.example", udp=False)
    rig.round()
    rig.round()
    assert rig.world.asked == []
    assert rig.store.calls.count("list") == 2


def test_when_a_notifier_is_silent_the_next_target_is_asked_and_then_preferred(rig: Rig) -> None:
    offer = rig.world.domains["alpha.example"]
    targets = (Target(ALPHA.host, 2225), Target("second.alpha.example", 2225), Target("third.alpha.example", 2225))
    rig.world.domains["alpha.example"] = replace(offer, checks=targets)
    rig.round()
    rig.world.answers["second.alpha.example"] = Waiting(0, 0)
    rig.round()
    rig.round()
    assert rig.world.asked == [ALPHA.host, "second.alpha.example", "second.alpha.example"]
    assert rig.store.calls.count("list") == 1
    assert rig.counters.snapshot() == {"checks_nothing": 2, "pulls_complete": 1, "rounds": 3} | _durations(rig)


def _durations(rig: Rig) -> dict[str, int]:
    return {name: count for name, count in rig.counters.snapshot().items() if "duration" in name}


def test_a_notifier_whose_address_cannot_be_found_is_passed_over(rig: Rig) -> None:
    offer = rig.world.domains["alpha.example"]
    targets = (Target("lost.alpha.example", 2225), Target(ALPHA.host, 2225))
    rig.world.domains["alpha.example"] = replace(offer, checks=targets)
    rig.world.answers[ALPHA.host] = Waiting(0, 0)
    rig.round()
    rig.round()
    assert rig.world.asked == [ALPHA.host]


def test_what_happens_is_counted(rig: Rig) -> None:
    rig.store.put_message(1)
    rig.store.put(bytes(16), b"garbage")
    rig.round()
    rig.world.answers[ALPHA.host] = Unknown()
    rig.store.lose_acks = 1
    rig.store.put_message(2)
    rig.round()
    counted = rig.counters.snapshot()
    assert (counted["posts_delivered"], counted["posts_held"], counted["notices_held"]) == (2, 1, 1)
    assert (counted["checks_unknown"], counted["failures_domain"]) == (1, 1)
    assert (counted["pulls_complete"], counted["pulls_failed"], counted["rounds"]) == (1, 1, 2)


def test_progress_tells_what_is_here_and_what_is_to_come(rig: Rig) -> None:
    for number in range(3):
        rig.store.put_message(number)
    seen = []
    ack = rig.store.ack

    def watched(ids: Iterable[bytes]) -> None:
        seen.append(rig.puller.progress())
        ack(ids)

    rig.store.ack = watched  # type: ignore[method-assign]
    rig.round()
    assert seen == [(1, 3, 3)]
    assert rig.puller.progress() == (0, 3, 3)


def test_the_full_check_comes_periodically_whatever_udp_says(rig: Rig) -> None:
    rig.round()
    rig.world.answers[ALPHA.host] = Waiting(0, 0)
    rig.round()
    rig.world.now += 1.2 * 3600
    rig.round()
    assert rig.store.calls.count("list") == 2


def test_a_full_round_asks_nothing_by_udp(rig: Rig) -> None:
    rig.round()
    rig.world.answers[ALPHA.host] = Waiting(0, 0)
    rig.round(full=True)
    assert rig.world.asked == []
    assert rig.store.calls.count("list") == 2


def test_deleted_cookies_force_the_full_check(rig: Rig, tmp_path: Path) -> None:
    rig.round()
    rig.account.jar.save()
    (tmp_path / "cookies.json").unlink()
    rig.round()
    assert rig.world.asked == []
    assert rig.store.calls.count("list") == 2
    assert len(rig.world.opened) == 2


def test_another_correspondent_in_the_keyring_forces_a_listing(rig: Rig) -> None:
    rig.round()
    rig.world.answers[ALPHA.host] = Waiting(0, 0)
    rig.account.keyring.certificates.append(certificate(Address("carol", "alpha.example"), "CA" * 20))
    rig.round()
    assert rig.store.calls.count("list") == 2


def test_an_incomplete_pass_is_repeated(rig: Rig) -> None:
    rig.store.put_message(1)
    rig.store.lose_acks = 1
    assert rig.round().failed == {"alpha.example"}
    assert rig.account.jar.get(ALPHA.url).seen is None
    rig.puller.forgive()  # as SIGHUP does: no waiting
    rig.world.answers[ALPHA.host] = Waiting(0, 0)
    rig.round()
    assert rig.store.calls.count("list") == 2
    assert len(rig.maildrop.messages) == 1


def test_domains_without_stub_mail_are_no_trouble_and_not_asked_about_all_the_time(rig: Rig) -> None:
    asked = []
    rig.world.domains["alpha.example"] = lambda: asked.append(1)
    rig.round()
    report = rig.round()
    assert (report.domains, report.failed) == (set(), set())
    assert len(asked) == 1
    rig.world.add("alpha.example")
    rig.puller.forgive()
    assert rig.round().domains == {"alpha.example"}


def test_what_fails_is_left_alone_for_a_while_and_the_log_says_so(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.world.domains["alpha.example"] = TemporaryError("4.4.3", "DNS: no answer in time")
    assert rig.round().failed == {"alpha.example"}
    rig.world.add("alpha.example")
    rig.round()
    assert rig.store.calls == []
    assert len([record for record in caplog.records if "failed" in record.getMessage()]) == 1
    rig.puller.forgive()
    rig.round()
    assert rig.store.calls == ["list"]


def test_the_next_store_is_tried_when_the_first_does_not_answer(rig: Rig) -> None:
    class Dead(FakeStore):
        def list(self, senders, after=0, limit=1000):
            raise TemporaryError("4.4.1", "cannot reach it")

    second = Store("post2.alpha.example", 8080, "post_manager")
    rig.world.domains["alpha.example"] = StubDomain("alpha.example", (), (), (ALPHA, second))
    rig.world.stores[ALPHA.host] = Dead()
    rig.world.stores[second.host] = FakeStore()
    rig.world.stores[second.host].put_message(1)
    assert rig.round().delivered == 1
    assert rig.world.opened == [ALPHA.host, second.host]
    rig.round()
    assert len(rig.world.opened) == 2  # it stays with the one that answers


def test_an_accounts_own_trouble_rests_the_account_and_blames_no_domain(rig: Rig) -> None:
    rig.store.put_message(1)
    rig.maildrop.failure = OSError(28, "No space left on device")
    assert rig.round().failed == {"bob@beta.example"}
    rig.maildrop.failure = None
    assert rig.round().delivered == 0
    rig.puller.forgive()
    assert rig.round().delivered == 1


def test_a_keyring_that_cannot_be_read_rests_the_account(rig: Rig) -> None:
    def broken():
        raise TemporaryError("4.3.0", "gpg cannot read the keyring")

    rig.account.keyring.correspondents = broken
    assert rig.round().failed == {"bob@beta.example"}


def test_a_bug_in_one_domain_is_logged_and_ends_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.world.stores[ALPHA.host] = lambda: object()
    assert rig.round().failed == {"alpha.example"}
    assert "AttributeError" in caplog.text


def people(count: int) -> list[Certificate]:
    """One correspondent in each of many domains."""
    return [certificate(Address("p", f"d{at}.example"), f"{at:040X}") for at in range(count)]


class Hanging(FakeStore):
    """A store that says nothing until it is released."""

    def __init__(self, released: threading.Event) -> None:
        super().__init__()
        self.asked = threading.Event()
        self._released = released

    def list(self, senders: Iterable[str], after: int = 0, limit: int = 1000) -> Listing:
        self.asked.set()
        assert self._released.wait(20)
        return super().list(senders, after, limit)


def test_a_store_that_hangs_delays_nobody_else(tmp_path: Path) -> None:
    rig = Rig(tmp_path, certificates=[certificate(ALICE, ALICE_KEY), *people(1)])
    released = threading.Event()
    hanging = Hanging(released)
    rig.world.add("d0.example")
    rig.world.stores["post.d0.example"] = hanging

    async def run():
        rig.puller.start_round()
        while not hanging.asked.is_set() or rig.store.calls.count("list") < 1:
            await asyncio.sleep(0.001)
        for number in range(3):  # rounds go on for alice while d0.example's store says nothing
            rig.store.put_message(number)
            while len(rig.maildrop.messages) <= number:
                rig.puller.start_round(full=True)
                await asyncio.sleep(0.001)
        assert rig.world.opened.count("post.d0.example") == 1
        released.set()
        await rig.puller.finish()

    rig.runner.run(asyncio.wait_for(run(), 20))
    rig.close()


def test_stores_that_hang_keep_no_idle_domain_from_being_checked(tmp_path: Path) -> None:
    rig = Rig(tmp_path, certificates=[certificate(ALICE, ALICE_KEY), *people(8)])
    released = threading.Event()
    for at in range(8):
        rig.world.domains[f"d{at}.example"] = None
    rig.round()
    rig.world.answers[ALPHA.host] = Waiting(0, 0)
    for at in range(8):  # more than there are workers
        rig.world.add(f"d{at}.example")
        rig.world.stores[f"post.d{at}.example"] = Hanging(released)

    async def run() -> None:
        rig.puller.forgive()
        rig.puller.start_round()
        while len(rig.world.opened) < 1 + 4:
            await asyncio.sleep(0.001)
        checks = len(rig.world.asked)
        while len(rig.world.asked) < checks + 3:
            rig.puller.start_round()
            await asyncio.sleep(0.001)
        released.set()
        await rig.puller.finish()

    rig.runner.run(asyncio.wait_for(run(), 20))
    rig.close()


def test_more_stores_that_hang_than_workers_delay_no_mail(tmp_path: Path) -> None:
    rig = Rig(tmp_path, certificates=[certificate(ALICE, ALICE_KEY), *people(12)])
    released = threading.Event()
    for at in range(12):
        rig.world.add(f"d{at}.example")
        rig.world.stores[f"post.d{at}.example"] = Hanging(released)

    async def run() -> None:
        rig.puller.start_round()
        while len(rig.world.opened) < 13:  # all of them, though there are four workers
            await asyncio.sleep(0.001)
        for number in range(3):
            rig.store.put_message(number)
            while len(rig.maildrop.messages) <= number:
                rig.puller.start_round(full=True)
                await asyncio.sleep(0.001)
        released.set()
        await rig.puller.finish()

    rig.runner.run(asyncio.wait_for(run(), 20))
    rig.close()


def test_a_backlog_of_one_domain_delays_no_other(tmp_path: Path) -> None:
    rig = Rig(tmp_path, certificates=[certificate(ALICE, ALICE_KEY), *people(1)])
    for number in range(3_000):
        rig.store.put_message(number)
    rig.store.page = 100
    other, sender = rig.world.add("d0.example"), Address("p", "d0.example")
    begun, fetch = threading.Event(), other.fetch

    def fetch_later(posts: Sequence[tuple[bytes, int]]) -> Iterator[Any]:
        assert begun.wait(20)
        return fetch(posts)

    def deliver(messages: Sequence[Any], committed: Any) -> None:
        begun.set()
        plainly(messages, committed)

    plainly = rig.maildrop.deliver
    rig.maildrop.deliver, other.fetch = deliver, fetch_later  # type: ignore[method-assign]
    message = honest_message(1).replace(b"alice@alpha.example", str(sender).encode())
    other.put(
        bytes(16), seal_plainly(bytes(16), message, sender=sender, signer="0" * 40), sender="0" * 40, address=sender
    )
    assert rig.round().delivered == 3_001
    order = [each.sender for each in rig.maildrop.messages]
    assert order.index(str(sender)) < 2_000
    rig.close()


def test_domains_whose_dns_hangs_delay_no_mail(tmp_path: Path) -> None:
    rig = Rig(tmp_path, certificates=[certificate(ALICE, ALICE_KEY), *people(12)])
    released, hanging = threading.Event(), []

    def hang() -> None:
        hanging.append(1)
        assert released.wait(20)

    for at in range(12):
        rig.world.domains[f"d{at}.example"] = hang

    async def run() -> None:
        rig.puller.start_round()
        while len(hanging) < 12:
            await asyncio.sleep(0.001)
        rig.store.put_message(1)
        while not rig.maildrop.messages:
            rig.puller.start_round(full=True)
            await asyncio.sleep(0.001)
        released.set()
        await rig.puller.finish()

    rig.runner.run(asyncio.wait_for(run(), 20))
    rig.close()


def test_a_round_of_five_hundred_idle_domains_takes_less_than_a_second(tmp_path: Path) -> None:
    rig = Rig(tmp_path, certificates=people(500))
    for at in range(500):
        rig.world.add(f"d{at}.example")
        rig.world.answers[f"post.d{at}.example"] = Waiting(0, 0)
    rig.round()
    started = time.process_time()  # others may have the machine meanwhile
    report = rig.round()
    assert report.checks == 500
    assert time.process_time() - started < 1.0
    rig.close()


def test_stopping_leaves_the_rest_for_the_next_process(rig: Rig) -> None:
    rig.store.put_message(1)
    rig.puller.stop()
    report = rig.round()
    assert (report.delivered, report.failed) == (0, set())
    assert rig.store.acknowledged == []


def test_a_dry_run_remembers_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=Limits(100_000, dry_run=True))
    rig.store.put_message(1)
    report = rig.round()
    assert (report.waiting, report.delivered) == (1, 0)
    assert rig.account.jar.get(ALPHA.url).seen is None
    assert not (tmp_path / "cookies.json").exists()
    rig.close()


def test_an_account_that_is_gone_is_visited_no_more(rig: Rig) -> None:
    rig.round()
    rig.puller.set_accounts([])
    rig.round(full=True)
    assert rig.store.calls == ["list"]


def test_a_decision_about_what_is_held_asks_whatever_udp_says(rig: Rig) -> None:
    post = rig.store.put(bytes(16), seal_plainly(bytes(16), honest_message(0), signer=None))
    rig.round()
    rig.world.answers[ALPHA.host] = Waiting(1, 1)
    rig.account.state.decide([(post.id, post.sender)], RELEASE)
    assert rig.round().delivered == 2  # the notice was the first
    rig.round()
    assert rig.store.calls.count("list") == 2


def test_correspondents_who_are_gone_take_what_was_held_along(rig: Rig) -> None:
    rig.store.put(bytes(16), b"garbage")
    rig.round()
    assert rig.account.state.standing().held == 1
    rig.account.keyring.certificates = people(1)
    rig.world.domains["d0.example"] = None
    rig.round()
    assert rig.account.state.standing().held == 0


def test_several_domains_of_one_account_deliver_at_the_same_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path, certificates=people(8))
    for at in range(8):
        store = rig.world.add(f"d{at}.example")
        for number in range(20):
            post_id = bytes([at, number] * 8)
            sender = Address("p", f"d{at}.example")
            message = honest_message(number).replace(b"alice@alpha.example", str(sender).encode())
            content = seal_plainly(post_id, message, sender=sender, signer=f"{at:040X}")
            store.put(post_id, content, sender=f"{at:040X}", address=sender)
    assert rig.round().delivered == 160
    assert len({message.id for message in rig.maildrop.messages}) == 160
    rig.close()


@pytest.mark.parametrize(
    ("report", "standing", "status"),
    [
        (Report(delivered=1), Standing(0, 0, 0), 0),
        (Report(), Standing(0, 5, 0), 1),
        (Report(), Standing(3, 0, 0), 1),
        (Report(delivered=1, failed={"alpha.example"}), Standing(0, 0, 0), 75),
        (Report(delivered=1, failed={"alpha.example"}), Standing(1, 0, 1), 77),
    ],
)
def test_the_exit_status_is_that_of_the_contract(report: Report, standing: Standing, status: int) -> None:
    assert report.status([standing, Standing(0, 0, 0)]) == status


def test_the_summary_is_one_line() -> None:
    report = Report(delivered=3, domains={"a.example", "b.example"})
    assert report.summary([Standing(0, 1, 0)]) == "pulled delivered=3 held=0 strangers=1 domains=2"
    report.failed.add("b.example")
    assert report.summary([Standing(2, 1, 1)]).endswith("domains=2 key_mismatches=1 failed=1")
    assert Report(waiting=4).summary([], dry_run=True) == "listed waiting=4 held=0 strangers=0 domains=0"


def test_workers_run_jobs_in_order_and_pass_on_what_they_raise() -> None:
    workers = Workers(1)
    order = []
    futures = [workers.submit(order.append, number) for number in range(5)]
    failing = workers.submit(int, "x")
    workers.shutdown()
    assert order == [0, 1, 2, 3, 4]
    assert [future.result() for future in futures] == [None] * 5
    with pytest.raises(ValueError, match="x"):
        failing.result()


def test_the_memory_gate_lets_in_what_fits_and_a_giant_alone() -> None:
    gate = MemoryGate(100)
    inside, peak, lock = [], [], threading.Lock()

    def work(size):
        with gate.room(size):
            with lock:
                inside.append(size)
                peak.append(list(inside))
            with lock:
                inside.remove(size)

    workers = Workers(8)
    futures = [workers.submit(work, size) for size in (60, 30, 500, 60, 30, 30, 500, 60) * 3]
    workers.shutdown()
    assert all(future.exception() is None for future in futures)
    assert all(sum(min(size, 100) for size in together) <= 100 for together in peak)
