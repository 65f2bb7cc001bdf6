"""Attempts at messages: routes found out without waiting for the slow, and never clear text by mistake."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.smtp2stub import destinations as destinations_module
from services.smtp2stub.account import Account
from services.smtp2stub.destinations import PER_DOMAIN, Destinations
from services.smtp2stub.dispatch import RELAYS, Dispatch
from services.smtp2stub.job import Job
from services.smtp2stub.posting import Posting
from stubmail.address import Address
from stubmail.discovery import StubDomain
from stubmail.errors import Exit, PermanentError, StubmailError, TemporaryError
from stubmail.known_domains import KnownDomains
from stubmail.policies import Policies, parse_policies
from stubmail.queue import Item, Outcome, Progress, Queue, State
from stubmail.routing import Policy
from tests.support.gateway import ALICE, BOB, CAROL, MESSAGE, Clock, accept, make_item, make_queue
from tests.support.key_servers import KeyServers
from tests.support.posting import STORE, MemoryAccount, MemoryKeyring, MemoryResolver, MemoryStore, offer, person
from tests.support.waiting import eventually

DAVE = Address("dave", "delta.example")
CERTIFICATES = [person(address).certificate for address in (BOB, DAVE)]
ALICE_KEY = person(ALICE)


class SlowResolver(MemoryResolver):
    """Some domains answer only when they are released."""

    def __init__(self, **answers: StubDomain | StubmailError | None) -> None:
        super().__init__(**answers)
        self.slow: dict[str, threading.Event] = {}

    def discover(self, domain: str) -> StubDomain | None:
        if domain in self.slow:
            self.asked.append(domain)
            assert self.slow[domain].wait(20)
            self.asked.remove(domain)
        return super().discover(domain)


class World:
    """A dispatch and all around it."""

    def __init__(self, root: Path, pools: Sequence[ThreadPoolExecutor], **options: object) -> None:
        self.queue = make_queue(root)
        self.clock = Clock()
        self.resolver = SlowResolver(
            **{
                "alpha.example": offer("alpha.example", STORE),
                "beta.example": offer("beta.example"),
                "delta.example": offer("delta.example"),
                "legacy.example": None,
            }
        )
        self.policies = Policies(Policy(options.get("policy", "prefer")))
        self.known = KnownDomains(root / "domains")
        self.store = MemoryStore()
        self.account: Account | Exit = MemoryAccount(MemoryKeyring(ALICE_KEY, *CERTIFICATES), self.resolver, self.store)
        self.relayed: list[Address] = []
        self.filed: list[str] = []
        self.saved: list[list[Outcome]] = []
        self.destinations = Destinations(
            self.resolver,  # type: ignore[arg-type]
            self.known,
            lambda recipient: self.policies.of(recipient),
            smarthost=bool(options.get("smarthost", True)),
            threads=pools[0],
            clock=self.clock,
            patience=float(str(options.get("patience", 5))),
        )
        self.dispatch = Dispatch(self._account, self.destinations, Posting(pools[1]), self._relay, pools[2])

    def _account(self, name: str) -> Account:
        assert name == "alice"
        if isinstance(self.account, Exit):
            raise self.account
        return self.account

    def _relay(self, item: Item, recipients: Sequence[Address], message: bytes) -> list[Outcome]:
        assert item.id in self.filed, "relayed before it could be remembered"
        assert message == MESSAGE
        self.relayed += recipients
        return [Outcome(State.DONE, "2.0.0", "", "smarthost")] * len(recipients)

    async def file(self, job: Job) -> None:
        job.filed = True
        self.filed.append(job.item.id)

    async def save(self, job: Job) -> None:
        self.saved.append(list(job.progress.outcomes))

    def job(self, number: int, *recipients: Address) -> Job:
        accept(self.queue, make_item(number, *recipients))
        [stored] = self.queue.arrived(make_item(number).id)
        return Job(self, stored, Progress.fresh(len(recipients)), filed=False)

    async def attempt(self, number: int, *recipients: Address) -> list[tuple[State, str]]:
        job = self.job(number, *recipients)
        await self.dispatch.attempt(job, range(len(recipients)))
        return [(outcome.state, outcome.code) for outcome in job.progress.outcomes]


Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with ThreadPoolExecutor(8) as first, ThreadPoolExecutor(2) as second, ThreadPoolExecutor(2) as third:
        yield lambda **options: World(tmp_path, (first, second, third), **options)


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))  # type: ignore[arg-type]


DONE = (State.DONE, "2.0.0")


def test_recipients_travel_as_their_domains_allow(make: Make) -> None:
    world = make()

    async def story() -> None:
        assert await world.attempt(1, BOB, CAROL, DAVE) == [DONE, DONE, DONE]

    run(story)
    assert world.relayed == [CAROL]
    assert [post.address for post in world.store.posts.values()] == [BOB, DAVE]
    assert len({id(post.body) for post in world.store.posts.values()}) == 1
    assert "beta.example" in world.known
    assert "legacy.example" not in world.known


@pytest.mark.parametrize("answer", ["silent", "incomplete", "gone"])
def test_mail_never_goes_in_clear_text_because_dns_fails(make: Make, answer: str) -> None:
    world = make()
    world.known.remember("beta.example")
    world.resolver.answers["beta.example"] = {
        "silent": TemporaryError("4.4.3", "SERVFAIL"),
        "incomplete": TemporaryError("4.4.4", "_pks is missing"),
        "gone": None,
    }[answer]

    async def story() -> None:
        [(state, code)] = await world.attempt(1, BOB)
        assert state is State.WAITING
        assert code.startswith("4.")

    run(story)
    assert world.relayed == []


def test_a_domain_forgotten_by_hand_may_be_relayed_to(make: Make, tmp_path: Path) -> None:
    world = make()
    world.known.remember("beta.example")
    world.resolver.answers["beta.example"] = None
    KnownDomains(tmp_path / "domains").forget("beta.example")

    async def story() -> None:
        assert await world.attempt(1, BOB) == [DONE]

    run(story)
    assert world.relayed == [BOB]


def test_policies(make: Make) -> None:
    never, require = make(policy="never"), make(policy="require")

    async def story() -> None:
        assert await never.attempt(1, BOB) == [DONE]
        assert await require.attempt(2, BOB, CAROL) == [DONE, (State.FAILED, "5.7.1")]

    run(story)
    assert never.relayed == [BOB]
    assert never.resolver.asked == []
    assert require.relayed == []


def test_recipients_at_one_domain_may_have_different_policies(make: Make, tmp_path: Path) -> None:
    world = make()
    eve, dora = Address("eve", "beta.example"), Address("dora", "legacy.example")
    world.policies = parse_policies("eve@beta.example never\ndora@legacy.example require", Policy.PREFER, tmp_path)

    async def story() -> None:
        assert await world.attempt(1, BOB, eve, CAROL, dora) == [DONE, DONE, DONE, (State.FAILED, "5.7.1")]
        world.resolver.answers["beta.example"] = TemporaryError("4.4.3", "SERVFAIL")
        assert await world.attempt(2, BOB, eve) == [(State.WAITING, "4.4.3"), DONE]

    run(story)
    assert world.relayed == [eve, CAROL, eve]
    assert [post.address for post in world.store.posts.values()] == [BOB]


def test_policies_that_are_read_anew_count_at_once(make: Make, tmp_path: Path) -> None:
    world = make()
    world.known.remember("beta.example")
    world.resolver.answers["beta.example"] = None

    async def story() -> None:
        assert await world.attempt(1, BOB) == [(State.WAITING, "4.7.5")]
        world.policies = parse_policies("beta.example never", Policy.PREFER, tmp_path)
        assert await world.attempt(2, BOB) == [DONE]

    run(story)
    assert world.relayed == [BOB]


def test_without_a_smarthost_legacy_mail_comes_back(make: Make) -> None:
    world = make(smarthost=False)

    async def story() -> None:
        assert await world.attempt(1, CAROL, BOB) == [(State.FAILED, "5.4.4"), DONE]

    run(story)


def test_a_recipient_without_a_key_waits_alone(make: Make) -> None:
    world = make()
    assert isinstance(world.account, MemoryAccount)
    world.account.keys.find = lambda recipient, domain, ask: (_ for _ in ()).throw(  # type: ignore[method-assign]
        TemporaryError("4.7.5", "no key")
    )

    async def story() -> None:
        assert await world.attempt(1, BOB, CAROL) == [(State.WAITING, "4.7.5"), DONE]

    run(story)


def test_news_of_a_key_is_asked_for_without_anybody_waiting(make: Make) -> None:
    world = make()
    assert isinstance(world.account, MemoryAccount)
    other, release, asked = person(BOB).certificate, threading.Event(), list[str]()

    def slow(search: str) -> bytes:
        asked.append(search)
        assert release.wait(20)
        return other.armored()

    servers = KeyServers(keys=slow)
    keyring = MemoryKeyring(ALICE_KEY, *CERTIFICATES)
    world.account = MemoryAccount(keyring, world.resolver, world.store, http=servers)

    async def story() -> None:
        assert await world.attempt(1, BOB) == [DONE]
        assert await world.attempt(2, BOB) == [DONE]
        await eventually(lambda: bool(asked))
        assert not world.destinations.is_idle
        release.set()
        await eventually(lambda: world.destinations.is_idle)
        assert await world.attempt(3, BOB) == [DONE]

    run(story)
    assert asked == ["bob@beta.example"]
    assert [change.certificate for change in keyring.changes] == [other]
    assert {post.to for post in world.store.posts.values()} == {CERTIFICATES[0].fingerprint}


def test_many_recipients_at_a_slow_key_server_do_not_keep_those_waiting_whose_keys_are_known(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    now = [0.0]
    monkeypatch.setattr(destinations_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(search: str) -> int:
        now[0] += 20.0
        return 404

    servers = KeyServers(keys=slow)
    world.account = MemoryAccount(MemoryKeyring(ALICE_KEY, *CERTIFICATES), world.resolver, world.store, http=servers)
    strangers = [Address(f"user{number}", "beta.example") for number in range(50)]

    async def story() -> None:
        states = await world.attempt(1, *strangers, BOB)
        assert states[0] == (State.WAITING, "4.7.5")
        assert states[-2:] == [(State.WAITING, "4.4.2"), DONE]

    run(story)
    assert len([question for _, question in servers.asked if question != str(BOB)]) == 2


def test_an_account_that_does_not_work_keeps_its_stub_mail_waiting(make: Make) -> None:
    world = make()
    world.account = Exit(69, "gpg is missing")

    async def story() -> None:
        assert await world.attempt(1, BOB, CAROL) == [(State.WAITING, "4.3.5"), DONE]

    run(story)
    assert world.relayed == [CAROL]


def test_a_domain_that_cannot_be_is_refused(make: Make) -> None:
    world = make()
    world.resolver.answers["beta.example"] = PermanentError("5.1.2", "no domain name")

    async def story() -> None:
        assert await world.attempt(1, BOB) == [(State.FAILED, "5.1.2")]

    run(story)


def test_a_slow_domain_delays_nobody_else(make: Make) -> None:
    world = make(patience=0.7)
    release = world.resolver.slow["delta.example"] = threading.Event()

    async def story() -> None:
        stuck = [asyncio.create_task(world.attempt(number, DAVE)) for number in range(40)]
        await eventually(lambda: len(world.resolver.asked) == PER_DOMAIN)
        assert await world.attempt(100, BOB, DAVE) == [DONE, (State.WAITING, "4.4.3")]
        assert {outcome for outcomes in await asyncio.gather(*stuck) for outcome in outcomes} == {
            (State.WAITING, "4.4.3")
        }
        release.set()
        await eventually(lambda: "delta.example" in world.known)
        assert await world.attempt(101, DAVE) == [DONE]

    run(story)


def test_a_domain_that_failed_is_left_alone_for_a_moment(make: Make) -> None:
    world = make()
    world.resolver.answers["beta.example"] = TemporaryError("4.4.3", "SERVFAIL")

    async def story() -> None:
        for number in range(10):
            assert await world.attempt(number, BOB) == [(State.WAITING, "4.4.3")]
        assert world.resolver.asked.count("beta.example") == 1
        world.resolver.answers["beta.example"] = offer("beta.example")
        world.dispatch.retry()
        assert await world.attempt(11, BOB) == [DONE]
        world.resolver.answers["beta.example"] = TemporaryError("4.4.3", "SERVFAIL")
        await world.attempt(12, BOB)
        world.resolver.answers["beta.example"] = offer("beta.example")
        world.clock.now += 5
        assert await world.attempt(13, BOB) == [DONE]

    run(story)


def test_what_is_relayed_is_filed_before_and_noted_at_once(make: Make) -> None:
    world = make()

    async def story() -> None:
        await world.attempt(1, CAROL)

    run(story)
    assert world.filed == [make_item(1).id]
    assert [outcome.state for outcome in world.saved[0]] == [State.DONE]


def test_messages_that_come_while_the_store_works_go_together(make: Make) -> None:
    world = make()
    release = threading.Event()
    store = world.store.store

    def slow(posts: Sequence[object]) -> object:
        assert release.wait(30)
        return store(posts)  # type: ignore[arg-type]

    world.store.store = slow  # type: ignore[method-assign,assignment]

    async def story() -> None:
        first = asyncio.create_task(world.attempt(0, BOB))
        await eventually(lambda: "alpha.example" in world.resolver.asked)
        others = [asyncio.create_task(world.attempt(number, BOB)) for number in range(1, 20)]
        await eventually(lambda: world.resolver.asked.count("beta.example") == 21)  # once for news of the key
        await asyncio.sleep(0)
        release.set()
        assert await asyncio.gather(first, *others) == [[DONE]] * 20

    run(story)
    assert len(world.store.requests) <= 4


def test_an_unforeseen_fault_of_one_message_reaches_only_its_own_attempt(make: Make) -> None:
    world = make()
    assert isinstance(world.account, MemoryAccount)
    post = world.account.post

    def broken(parcels: Sequence[object]) -> None:
        world.account.post = post  # type: ignore[union-attr,method-assign]
        raise RuntimeError("a bug")

    world.account.post = broken  # type: ignore[method-assign,assignment]

    async def story() -> None:
        with pytest.raises(RuntimeError, match="a bug"):
            await world.attempt(1, BOB)
        assert await world.attempt(2, BOB) == [DONE]

    run(story)


def outcomes_of(found: Mapping[Address, object]) -> list[str]:
    return [type(way).__name__ for way in found.values()]


def test_a_thousand_recipients_are_found_in_one_go(make: Make, tmp_path: Path) -> None:
    world = make()
    many = [Address(f"user{number}", "legacy.example") for number in range(1000)]

    async def story() -> None:
        found = await world.destinations.find(TemporaryError("4.0.0", "unused"), many)
        assert set(outcomes_of(found)) == {"Route"}

    run(story)
    assert world.resolver.asked == ["legacy.example"]
    assert isinstance(world.queue, Queue)


def test_few_messages_are_passed_on_before_the_disk_knows_of_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()

    async def story() -> None:
        disk = asyncio.Event()

        async def save(job: Job) -> None:
            await disk.wait()

        monkeypatch.setattr(world, "save", save)
        attempts = [asyncio.create_task(world.attempt(number, CAROL)) for number in range(1, 21)]
        await eventually(lambda: len(world.filed) == 20 and len(world.relayed) == RELAYS)
        for _ in range(10):  # turns of the loop, in which nobody else gets in
            await asyncio.sleep(0)
        assert len(world.relayed) == RELAYS
        disk.set()
        assert await asyncio.gather(*attempts) == [[DONE]] * 20

    run(story)
    assert len(world.relayed) == 20
