"""One pass over a store: what is delivered, held, acknowledged and left, whatever the store and the disk do."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.http2mbox import deposits, held, intake, pull
from services.http2mbox.incoming import Stopped
from services.http2mbox.pull import Limits, Pull
from services.http2mbox.state import AccountTrouble, Standing, delivery_name
from services.http2mbox.workers import MemoryGate
from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.frames import Frame
from stubmail.mbox import Mbox, MboxError
from stubmail.store_answers import Listing, Other, StoreRefused
from tests.support.fake_store import (
    ALICE,
    ALICE_KEY,
    STRANGER_KEY,
    FakeStore,
    certificate,
    honest_message,
    make_account,
    seal_plainly,
)
from tests.support.pulling import DOMAIN, HOST, Setup, forged
from tests.support.waiting import wait_until


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[Setup]:
    bob = Setup(tmp_path)
    yield bob
    bob.account.close()


def text(number: int) -> bytes:
    return honest_message(number).partition(b"\r\n\r\n")[2]


def test_what_waits_is_delivered_in_its_form_and_acknowledged(bob: Setup) -> None:
    ids = [bob.store.put_message(number).id for number in range(3)]
    tally = bob.pull()
    assert (tally.delivered, tally.complete, tally.serial) == (3, True, 3)
    assert bob.texts() == [text(number) for number in range(3)]
    assert bob.store.acknowledged == ids
    first = bob.maildrop.messages[0]
    assert first.sender == "alice@alpha.example"
    assert first.content.startswith(
        b"Received: from post.alpha.example by beta.example with STUB id " + ids[0].hex().encode()
    )
    assert f"x-stub.fingerprint={ALICE_KEY}\r\nFrom: Alice".encode() in first.content


def test_nothing_waits(bob: Setup) -> None:
    tally = bob.pull()
    assert (tally.delivered, tally.complete, tally.serial) == (0, True, 0)
    assert bob.store.calls == ["list"]


def test_many_posts_come_in_pages_and_batches(bob: Setup) -> None:
    bob.store.page = 150
    for number in range(400):
        bob.store.put_message(number)
    assert bob.pull().delivered == 400
    assert bob.texts() == [text(number) for number in range(400)]
    assert bob.store.posts == {}


def test_a_batch_is_committed_before_it_fills_the_memory(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deposits, "COMMIT_OCTETS", 5000)
    for number in range(4):
        bob.store.put_message(number, honest_message(number) + b"x" * 3000 + b"\r\n")
    sizes, deliver = [], bob.maildrop.deliver

    def counted(messages, committed):
        sizes.append(len(messages))
        deliver(messages, committed)

    monkeypatch.setattr(bob.maildrop, "deliver", counted)
    assert bob.pull().delivered == 4
    assert sizes == [2, 2]
    assert bob.store.calls == ["list", "fetch", "ack"]


def test_batches_are_bounded_in_octets_and_a_larger_post_goes_alone(
    bob: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "BATCH_OCTETS", 1000)
    sizes = [100, 100, 5000, 100, 900]
    posts = [bob.store.put(bytes([at] * 16), b"x" * size) for at, size in enumerate(sizes)]
    assert [[post.size for post in batch] for batch in pull._batches(posts)] == [[100, 100], [5000], [100, 900]]


def test_a_post_listed_again_after_its_delivery_is_only_acknowledged(bob: Setup) -> None:
    listed = bob.store.put_message(1)
    content = bob.store.posts[listed.id]
    bob.pull()
    bob.store.posts[listed.id] = content  # the store was restored from a backup
    bob.store.calls.clear()
    tally = bob.pull()
    assert (tally.delivered, tally.repeated) == (0, 1)
    assert bob.store.calls == ["list", "ack"]
    assert len(bob.maildrop.messages) == 1


@pytest.mark.parametrize("lost", [1, -1], ids=["answer", "request"])
def test_a_lost_acknowledgement_is_repeated_and_duplicates_nothing(bob: Setup, lost: int) -> None:
    bob.store.put_message(1)
    bob.store.lose_acks = lost
    with pytest.raises(TemporaryError):
        bob.pull()
    assert bob.last.complete is False
    assert bob.pull().delivered == 0
    assert len(bob.maildrop.messages) == 1
    assert bob.store.posts == {}


def test_keep_leaves_the_posts_and_delivers_them_once(bob: Setup) -> None:
    bob.store.put_message(1)
    assert bob.pull(keep=True).delivered == 1
    assert bob.pull(keep=True).delivered == 0
    assert len(bob.store.posts) == len(bob.maildrop.messages) == 1
    assert "ack" not in bob.store.calls


def test_a_dry_run_lists_and_does_nothing_else(bob: Setup) -> None:
    bob.store.put_message(1)
    bob.store.put(bytes(16), b"x" * 200_000)
    bob.store.others = (Other(STRANGER_KEY, ALICE, 2),)
    tally = bob.pull(dry_run=True)
    assert (tally.waiting, tally.held) == (1, 1)
    assert bob.store.calls == ["list"]
    assert bob.standing() == Standing(0, 0, 0)


def test_a_full_disk_leaves_the_post_at_the_store(bob: Setup) -> None:
    bob.store.put_message(1)
    bob.maildrop.failure = MboxError("4.3.1", "the disk is full")
    with pytest.raises(AccountTrouble):
        bob.pull()
    assert bob.store.calls == ["list", "fetch"]
    bob.maildrop.failure = None
    assert bob.pull().delivered == 1


def test_when_only_recording_fails_the_post_is_not_acknowledged(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    bob.store.put_message(1)

    def full(names, now):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bob.account.state, "record", full)
    with pytest.raises(AccountTrouble):
        bob.pull()
    assert "ack" not in bob.store.calls


@pytest.mark.parametrize(
    "kind", ["malformed", "not-for-us", "unsigned", "unknown-signer", "recipient", "from", "too-large", "envelope"]
)
def test_what_breaks_a_rule_is_held_once_and_the_rest_is_delivered(
    bob: Setup, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    bob.store.put_message(1)
    bad = forged(bob, kind)
    bob.store.put_message(2)
    with caplog.at_level(logging.WARNING):
        tally = bob.pull()
    assert (tally.delivered, tally.held, tally.complete) == (2, 1, True)
    assert bob.texts() == [text(1), text(2)]
    assert bad not in bob.store.acknowledged
    assert [record.getMessage().split(" ")[:2] for record in caplog.records] == [[bad.hex(), "held"]]
    assert bob.account.state.held(DOMAIN)[bad, ALICE_KEY].reason == kind
    assert bob.standing().key_mismatches == (kind == "unknown-signer")

    caplog.clear()
    bob.store.calls.clear()
    assert bob.pull().held == 0  # not fetched again, not told again
    assert bob.store.calls == ["list"]
    assert caplog.records == []
    assert bob.standing().held == 1


def test_what_is_held_gets_another_try_when_the_sender_has_renewed_his_key(bob: Setup) -> None:
    bad = forged(bob, "from")
    bob.pull()
    bob.store.posts[bad] = bob.store.posts[bad][0], seal_plainly(bad, honest_message(9))
    bob.store.relist(bad, size=len(bob.store.posts[bad][1]))
    bob.account.keyring.certificates = [certificate(ALICE, ALICE_KEY, b"renewed")]
    assert bob.pull().delivered == 1
    assert bob.standing() == Standing(0, 0, 0)


def test_what_is_held_gets_another_try_after_a_day(bob: Setup) -> None:
    bad = forged(bob, "from")
    bob.pull()
    before = bob.account.state.held(DOMAIN)[bad, ALICE_KEY]
    bob.account.state.hold(replace(before, time=before.time - 86_400))
    bob.store.calls.clear()
    assert bob.pull().held == 1
    assert "fetch" in bob.store.calls


def test_what_the_store_lists_no_more_is_held_no_more(bob: Setup) -> None:
    bad = forged(bob, "unsigned")
    bob.pull()
    del bob.store.posts[bad]
    bob.pull()
    assert bob.standing().held == 0


def test_a_post_under_the_address_of_another_is_not_fetched(bob: Setup, caplog: pytest.LogCaptureFixture) -> None:
    listed = bob.store.put_message(1)
    bob.store.relist(listed.id, address=Address("carol", DOMAIN))
    with caplog.at_level(logging.WARNING):
        assert bob.pull().held == 1
    assert bob.store.calls == ["list"]
    assert "key-mismatch" in caplog.text
    assert bob.standing().key_mismatches == 1


def test_a_correspondent_with_another_key_is_named_with_both_and_not_fetched(
    bob: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    bob.store.others = (Other(STRANGER_KEY, ALICE, 2), Other("5F" * 20, Address("eve", DOMAIN), 3))
    with caplog.at_level(logging.WARNING):
        bob.pull()
    assert f"found={STRANGER_KEY} expected={ALICE_KEY}" in caplog.text
    assert "eve" not in caplog.text
    assert bob.standing() == Standing(held=0, strangers=3, key_mismatches=1)
    caplog.clear()
    bob.pull()
    assert caplog.records == []
    assert bob.store.calls == ["list", "list"]


def test_an_expired_key_holds_its_mail_at_the_store(tmp_path: Path) -> None:
    bob = Setup(tmp_path, certificate(ALICE, ALICE_KEY, b"expired"))
    bob.store.put_message(1)
    assert bob.pull().held == 1
    assert bob.store.calls == ["list"]
    bob.account.close()


def test_another_senders_post_of_the_same_id_is_its_own(tmp_path: Path) -> None:
    carol, key = Address("carol", DOMAIN), "CA" * 20
    bob = Setup(tmp_path, certificate(ALICE, ALICE_KEY), certificate(carol, key))
    listed = bob.store.put_message(1)
    bob.account.state.record([delivery_name((listed.id, key))], 0)
    assert bob.pull().delivered == 1
    bob.account.close()


def test_an_answer_that_breaks_off_is_resumed(bob: Setup) -> None:
    for number in range(5):
        bob.store.put_message(number, honest_message(number) + b"y" * 2000 + b"\r\n")
    bob.store.break_after = 3000
    assert bob.pull().delivered == 5


def test_what_came_before_the_answers_stop_is_delivered(bob: Setup) -> None:
    for number in range(5):
        bob.store.put_message(number)
    bob.store.break_after = bob.store.posts[bytes(16)][0].size + 5

    class Dying(FakeStore):
        """Answers one fetch, which breaks off, and is then gone."""

        def fetch(self, posts: Sequence[tuple[bytes, int]]) -> Iterator[Frame | bytes]:
            if "fetch" in self.calls:
                raise TemporaryError("4.4.1", "nobody answers")
            return super().fetch(posts)

    dying = Dying(**vars(bob.store))
    with pytest.raises(TemporaryError):
        bob.pull(client=dying)
    assert bob.texts() == [text(0)]
    assert len(dying.acknowledged) == 1


def test_posts_that_are_gone_meanwhile_are_passed_over(bob: Setup) -> None:
    listed = bob.store.put_message(1)
    bob.store.put_message(2)

    class Hasty(FakeStore):
        """Somebody else with our key acknowledges a post as soon as it is listed."""

        def list(self, senders: Iterable[str], after: int = 0, limit: int = 1000) -> Listing:
            page = super().list(senders, after, limit)
            self.posts.pop(listed.id, None)
            return page

    tally = bob.pull(client=Hasty(**vars(bob.store)))
    assert (tally.delivered, tally.gone, tally.complete) == (1, 1, True)


def test_a_store_that_lists_what_it_does_not_have_is_left_alone(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_GONE", 10)
    bob.store.page = 5
    posts = [bob.store.put_message(number) for number in range(30)]
    for post in posts:
        bob.store.relist(post.id, size=7)

    class Empty:
        list, ack = bob.store.list, bob.store.ack

        def fetch(self, wanted):
            return FakeStore().fetch(wanted)

    with pytest.raises(TemporaryError, match="does not have"):
        bob.pull(client=Empty())
    assert bob.store.calls.count("list") <= 3 + 2  # two of them ahead


def test_a_sender_that_floods_with_forgeries_is_left_alone_and_delays_nobody(
    bob: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "MAX_HELD", 10)
    for number in range(30):
        bob.store.put(number.to_bytes(16, "big"), b"garbage")
    bob.store.page = 5
    carol, key = Address("carol", DOMAIN), "CA" * 20
    bob.account.keyring.certificates.append(certificate(carol, key))
    content = seal_plainly(bytes([255] * 16), b"From: carol@alpha.example\r\n\r\n", sender=carol, signer=key)
    bob.store.put(bytes([255] * 16), content, sender=key, address=carol)
    tally = bob.pull()
    assert (tally.held, tally.skipped, tally.delivered, tally.complete) == (10, 20, 1, True)
    assert bob.standing().held == 10
    bob.store.calls.clear()
    assert bob.pull().skipped == 20
    assert "fetch" not in bob.store.calls


def test_a_store_that_never_stops_listing_gets_another_turn_later(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "MAX_PAGES", 3)
    bob.store.page = 2
    for number in range(20):
        bob.store.put_message(number)
    tally = bob.pull()
    assert (tally.delivered, tally.complete) == (6, False)


def test_a_hostile_listing_delivers_nothing(bob: Setup) -> None:
    bob.store.put_message(1)
    bob.store.relist((1).to_bytes(16, "big"), serial=0)

    class Hostile:
        fetch, ack = bob.store.fetch, bob.store.ack

        def list(self, senders, after=0, limit=1000):
            return bob.store.list(senders, -1, limit)

    with pytest.raises(TemporaryError):
        bob.pull(client=Hostile())
    assert bob.maildrop.messages == []


def test_a_refusal_ends_the_pass(bob: Setup) -> None:
    class Refusing:
        fetch, ack = bob.store.fetch, bob.store.ack

        def list(self, senders, after=0, limit=1000):
            raise StoreRefused("clock-skew", "301 seconds")

    with pytest.raises(StoreRefused):
        bob.pull(client=Refusing())


def test_very_many_correspondents_of_one_domain_are_asked_for_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "MAX_SENDERS", 2)
    people = [(Address(f"user{at}", DOMAIN), f"{at:040X}") for at in range(5)]
    bob = Setup(tmp_path, *(certificate(address, key) for address, key in people))
    for at, (address, key) in enumerate(people):
        post_id = bytes([at] * 16)
        message = f"From: {address}\r\n\r\n{at}\r\n".encode()
        bob.store.put(post_id, seal_plainly(post_id, message, sender=address, signer=key), sender=key, address=address)
    assert bob.pull().delivered == 5
    assert bob.store.calls.count("list") == 3
    bob.account.close()


def test_it_stops_between_batches(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "BATCH_POSTS", 2)
    for number in range(6):
        bob.store.put_message(number)
    with pytest.raises(Stopped):
        bob.pull(stopping=lambda: len(bob.maildrop.messages) >= 2)
    assert len(bob.maildrop.messages) == len(bob.store.acknowledged) == 2


def test_it_stops_within_a_batch_and_acknowledges_what_it_has_delivered(
    bob: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deposits, "COMMIT_POSTS", 2)
    for number in range(12):
        bob.store.put_message(number)
    with pytest.raises(Stopped):
        bob.pull(stopping=lambda: len(bob.maildrop.messages) >= 4)
    delivered = len(bob.maildrop.messages)
    assert delivered in (4, 6)  # the part that had been begun is completed
    assert len(bob.store.acknowledged) == delivered
    assert bob.pull().delivered == 12 - delivered


def test_the_next_batch_is_fetched_while_one_is_delivered(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "BATCH_POSTS", 2)
    for number in range(6):
        bob.store.put_message(number)
    deliver, seen = bob.maildrop.deliver, []

    def deliver_when_the_next_is_fetched(messages, committed):
        wait_until(lambda: bob.store.calls.count("fetch") >= min(3, len(seen) + 2))
        seen.append(bob.store.calls.count("fetch"))
        deliver(messages, committed)

    monkeypatch.setattr(bob.maildrop, "deliver", deliver_when_the_next_is_fetched)
    assert bob.pull().delivered == 6
    assert seen[0] == 2  # and not the third: what is ahead is bounded
    assert bob.texts() == [text(number) for number in range(6)]


def test_what_is_opened_is_delivered_before_a_wait_for_the_store(bob: Setup) -> None:
    bob.store.page = 5
    for number in range(12):
        bob.store.put_message(number)

    class Slow:
        fetch, ack = bob.store.fetch, bob.store.ack

        def list(self, senders, after=0, limit=1000):
            wait_until(lambda: len(bob.maildrop.messages) >= after - 5)
            return bob.store.list(senders, after, limit)

    assert bob.pull(client=Slow()).delivered == 12
    assert bob.texts() == [text(number) for number in range(12)]
    assert bob.store.posts == {}


def test_parts_that_are_delivered_together_need_not_be_those_that_came_together(
    bob: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "BATCH_POSTS", 3)
    monkeypatch.setattr(deposits, "COMMIT_POSTS", 2)
    for number in range(20):
        bob.store.put_message(number)
    assert bob.pull().delivered == 20
    assert bob.texts() == [text(number) for number in range(20)]
    assert bob.store.posts == {}
    assert len(bob.store.acknowledged) == 20


def test_messages_are_opened_while_others_are_delivered(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deposits, "COMMIT_POSTS", 2)
    for number in range(8):
        bob.store.put_message(number)
    deliver, unseal, opened, seen = bob.maildrop.deliver, bob.account.identity.unseal, [], []

    def counted(*args):
        opened.append(args)
        return unseal(*args)

    def deliver_when_the_next_are_opened(messages, committed):
        wait_until(lambda: len(opened) >= min(8, 2 * len(seen) + 4))
        seen.append(len(opened))
        deliver(messages, committed)

    monkeypatch.setattr(bob.account.identity, "unseal", counted)
    monkeypatch.setattr(bob.maildrop, "deliver", deliver_when_the_next_are_opened)
    assert bob.pull().delivered == 8
    assert seen == [4, 6, 8, 8]  # and what waits is bounded
    assert bob.texts() == [text(number) for number in range(8)]


def test_a_maildrop_that_fails_while_more_is_opened_loses_nothing(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deposits, "COMMIT_POSTS", 2)
    for number in range(8):
        bob.store.put_message(number)
    deliver, parts = bob.maildrop.deliver, []

    def full_at_the_second(messages, committed):
        parts.append(messages)
        if len(parts) == 2:
            raise MboxError("4.3.1", "the disk is full")
        deliver(messages, committed)

    monkeypatch.setattr(bob.maildrop, "deliver", full_at_the_second)
    with pytest.raises(AccountTrouble, match="disk is full"):
        bob.pull()
    assert len(bob.maildrop.messages) == len(bob.store.acknowledged) == 2
    assert bob.pull().delivered == 6
    assert bob.texts() == [text(number) for number in range(8)]


def test_a_fetch_that_fails_is_told_after_what_came_before_it_is_delivered(
    bob: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "BATCH_POSTS", 2)
    for number in range(6):
        bob.store.put_message(number)

    class Failing:
        list, ack, fetches = bob.store.list, bob.store.ack, 0

        def fetch(self, wanted):
            self.fetches += 1
            if self.fetches == 2:
                raise TemporaryError("4.4.2", "gone")
            return bob.store.fetch(wanted)

    with pytest.raises(TemporaryError, match="gone"):
        bob.pull(client=Failing())
    assert len(bob.maildrop.messages) == len(bob.store.acknowledged) == 2
    assert bob.pull().delivered == 4


def test_a_process_that_is_about_to_end_delivers_nothing_more(bob: Setup) -> None:
    bob.store.put_message(1)
    contacts_before = bob.account.contacts()
    bob.account.close()
    assert bob.account.identity.closed
    with pytest.raises(TemporaryError):
        Pull(bob.account, contacts_before, DOMAIN, HOST, bob.store, Limits(100_000), MemoryGate(10**6)).run()
    assert bob.maildrop.messages == []


class PowerFailure(BaseException):
    """The process ends here; nothing after it is done."""


class Failing:
    """Calls through to an object, and fails at the chosen one of all the moments around its durable steps."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def moment(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise PowerFailure

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            self.moment()
            result = function(*arguments)
            self.moment()
            return result

        return wrapped


@pytest.mark.parametrize("part", [1, 500])
@pytest.mark.parametrize("acks_arrive", [True, False])
def test_wherever_it_ends_every_message_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acks_arrive: bool, part: int
) -> None:
    monkeypatch.setattr(pull, "BATCH_POSTS", 2)
    monkeypatch.setattr(deposits, "COMMIT_POSTS", part)
    moment, died = 0, True
    while died:
        moment += 1
        directory = tmp_path / f"{acks_arrive}-{moment}"
        store = FakeStore()
        for number in range(5):
            store.put_message(number)
        backup = dict(store.posts)
        died = run_once(directory, store, Failing(moment))
        if not acks_arrive:
            store.posts = backup
        assert run_once(directory, store, Failing(10**9)) is False
        assert store.posts == {}
        snapshot = Mbox(directory / "mbox").snapshot()
        bodies = [b"".join(snapshot.chunks(at)).partition(b"\r\n\r\n")[2] for at in range(len(snapshot))]
        assert bodies == [text(number) for number in range(5)], moment
    # Before and after each delivery, record and acknowledgement; what comes in time is delivered together.
    assert moment > (2 * (5 + 5 + 1) if part == 1 else 2 * (1 + 1 + 1))


def run_once(directory: Path, store: FakeStore, failing: Failing) -> bool:
    """One process: open, recover, pull, end; True when it died on the way."""
    account = make_account(directory)
    died = False
    try:
        account.state.record = failing.around(account.state.record)
        account._maildrop.deliver = failing.around(account._maildrop.deliver)
        account.recover()

        class Client:
            list, fetch, ack = store.list, store.fetch, staticmethod(failing.around(store.ack))

        Pull(account, account.contacts(), DOMAIN, HOST, Client(), Limits(100_000), MemoryGate(10**6)).run()
    except PowerFailure:
        died = True
    account.state._db.close()  # what the kernel would do
    return died


def test_two_accounts_with_one_maildrop_each_learn_of_their_own(tmp_path: Path) -> None:
    drop = tmp_path / "shared"
    one = make_account(tmp_path / "1", Mbox(drop, owner="one"))
    two = make_account(tmp_path / "2", Mbox(drop, owner="two"))
    for account, number in ((one, 1), (two, 2)):
        store = FakeStore()
        store.put_message(number)
        Pull(account, account.contacts(), DOMAIN, HOST, store, Limits(100_000), MemoryGate(10**6)).run()
        account.recover()
    assert len(Mbox(drop).snapshot()) == 2
    one.close()
    two.close()
