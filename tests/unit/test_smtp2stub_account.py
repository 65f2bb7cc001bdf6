"""Sealing and storing: what recipients can open, and what becomes of each answer of the store."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.smtp2stub import account as account_module
from services.smtp2stub.account import Parcel
from services.smtp2stub.keys import Addressee
from services.smtp2stub.sealing import Destination
from stubmail.address import Address
from stubmail.envelope import tag, unwrap
from stubmail.errors import StubmailError, TemporaryError
from stubmail.openpgp import Identity, OpenPGPError
from stubmail.queue import Outcome, Queue, State
from stubmail.sent import SentRecords
from stubmail.settings import ConfigError
from stubmail.store_client import StoreRefused
from tests.support.gateway import ALICE, BOB, MESSAGE, accept, make_item, make_queue
from tests.support.posting import (
    OTHER_STORE,
    STORE,
    MemoryAccount,
    MemoryKeyring,
    MemoryResolver,
    MemoryStore,
    offer,
    person,
)

CARL = Address("carl", "beta.example")


@pytest.fixture(scope="module")
def alice() -> Identity:
    return person(ALICE)


@pytest.fixture(scope="module")
def bob() -> Iterator[Identity]:
    with person(BOB) as found:
        yield found


@pytest.fixture(scope="module")
def carl() -> Iterator[Identity]:
    with person(CARL) as found:
        yield found


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return make_queue(tmp_path)


@pytest.fixture
def account(alice: Identity) -> MemoryAccount:
    return MemoryAccount(
        MemoryKeyring(alice), MemoryResolver(**{"alpha.example": offer("alpha.example", STORE)}), MemoryStore()
    )


def parcel(queue: Queue, number: int, *to: Identity, message: bytes = MESSAGE) -> Parcel:
    """A message for these people, waiting in the queue."""
    addresses = [Address.parse(sorted(identity.certificate.addresses)[0]) for identity in to]
    accept(queue, make_item(number, *addresses), message=message)
    [stored] = queue.arrived(make_item(number).id)
    destinations = [
        Destination(index, recipient.post_id, Addressee(recipient.address, identity.certificate))
        for index, (recipient, identity) in enumerate(zip(stored.item.recipients, to, strict=True))
    ]
    return Parcel(stored, destinations)


def states(found: Parcel) -> list[tuple[State, str]]:
    return [(outcome.state, outcome.code) for outcome in found.outcomes]


def test_each_recipient_opens_his_own_post(
    queue: Queue, account: MemoryAccount, alice: Identity, bob: Identity, carl: Identity
) -> None:
    sent = parcel(queue, 1, bob, carl)
    account.post([sent])
    assert states(sent) == [(State.DONE, "2.0.0")] * 2
    posts = list(account.memory.posts.values())
    assert posts[0].body is posts[1].body
    for post, reader, address in zip(posts, (bob, carl), (BOB, CARL), strict=True):
        assert (post.to, post.address) == (reader.fingerprint, address)
        unsealed = reader.unseal(post.head + post.body, lambda _: alice.certificate, 10_000)
        assert unsealed.signer == alice.fingerprint
        envelope, message = unwrap(unsealed.data)
        assert message == MESSAGE
        assert envelope.sender == ALICE
        assert tag(post.id, reader.fingerprint, address) in envelope.tags
        assert len(envelope.tags) == 8
    with pytest.raises(OpenPGPError):
        carl.unseal(posts[0].head + posts[0].body, lambda _: alice.certificate, 10_000)


def test_messages_that_are_ready_together_share_a_request(queue: Queue, account: MemoryAccount, bob: Identity) -> None:
    parcels = [parcel(queue, number, bob) for number in range(5)]
    account.post(parcels)
    assert account.memory.requests == [5]
    assert account.connected == [STORE]
    account.post([parcel(queue, 9, bob)])
    assert account.connected == [STORE]


def test_requests_stay_within_the_store_s_limits(
    queue: Queue, account: MemoryAccount, bob: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_module, "MAX_POSTS", 4)
    monkeypatch.setattr(account_module, "MAX_OCTETS", 100_000)
    large = MESSAGE + b"x" * 60_000
    parcels = [
        parcel(queue, 1, *[bob] * 10),
        parcel(queue, 2, bob, message=large),
        parcel(queue, 3, bob, message=large),
    ]
    account.post(parcels)
    assert account.memory.requests == [4, 4, 3, 1]
    assert {state for each in parcels for state, _ in states(each)} == {State.DONE}


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [("quota", State.WAITING, "4.2.2"), ("too-large", State.FAILED, "5.3.4"), ("id", State.FAILED, "5.3.0")],
)
def test_one_refused_post_is_no_harm_to_the_others(
    queue: Queue, account: MemoryAccount, bob: Identity, carl: Identity, error: str, state: State, code: str
) -> None:
    sent, other = parcel(queue, 1, bob, carl), parcel(queue, 2, bob)
    account.memory.errors[sent.destinations[1].post_id] = error
    account.post([sent, other])
    assert states(sent) == [(State.DONE, "2.0.0"), (state, code)]
    assert states(other) == [(State.DONE, "2.0.0")]


def test_a_request_too_large_is_taken_apart(queue: Queue, account: MemoryAccount, bob: Identity) -> None:
    parcels = [parcel(queue, number, bob) for number in range(3)]
    refusal = StoreRefused("too-large", "the request is too large")
    account.memory.failures = [refusal, refusal]
    account.post(parcels)
    assert account.memory.requests == [3, 1, 1, 1]
    assert [states(each)[0] for each in parcels] == [
        (State.FAILED, "5.3.4"),
        (State.DONE, "2.0.0"),
        (State.DONE, "2.0.0"),
    ]


@pytest.mark.parametrize("reason", ["account", "clock-skew", "wrong-host", "certificate", "signature"])
def test_what_is_wrong_between_us_and_our_store_keeps_mail_waiting(
    queue: Queue, account: MemoryAccount, bob: Identity, reason: str
) -> None:
    sent = parcel(queue, 1, bob)
    account.memory.failures = [StoreRefused(reason, "no")]
    account.post([sent])
    assert states(sent) == [(State.WAITING, "4.7.1")]
    account.post([sent])
    assert states(sent) == [(State.DONE, "2.0.0")]


def test_a_store_that_is_down_is_waited_for(queue: Queue, account: MemoryAccount, bob: Identity) -> None:
    sent = parcel(queue, 1, bob)
    account.memory.failures = [TemporaryError("4.4.1", "connection refused")]
    account.post([sent])
    assert sent.outcomes == [Outcome(State.WAITING, "4.4.1", "connection refused", "stub")]


def test_a_post_larger_than_the_store_takes_comes_back(queue: Queue, account: MemoryAccount, bob: Identity) -> None:
    account.memory.session.max_post = 5000
    sent, small = parcel(queue, 1, bob, message=MESSAGE + os.urandom(6000)), parcel(queue, 2, bob)
    account.post([sent, small])
    assert states(sent) == [(State.FAILED, "5.3.4")]
    assert states(small) == [(State.DONE, "2.0.0")]


def test_a_store_that_takes_nothing_from_the_account_is_for_the_administrator(
    queue: Queue, account: MemoryAccount, bob: Identity
) -> None:
    account.memory.session.max_post = 0
    sent = parcel(queue, 1, bob)
    account.post([sent])
    assert states(sent) == [(State.WAITING, "4.7.1")]
    assert "takes no mail from alice@alpha.example" in sent.outcomes[0].text


@pytest.mark.parametrize(
    "error",
    [OpenPGPError("expired", "our key is expired"), TemporaryError("4.3.0", "gpg hangs"), ConfigError("no passphrase")],
)
def test_a_key_that_does_not_open_keeps_mail_waiting(
    queue: Queue, account: MemoryAccount, bob: Identity, error: StubmailError | ConfigError
) -> None:
    keyring = account.keyring
    own, keyring.own = keyring.own, error
    sent = parcel(queue, 1, bob)
    account.post([sent])
    assert sent.outcomes[0].state is State.WAITING
    assert sent.outcomes[0].code.startswith("4.")
    keyring.own = own
    account.post([sent])
    assert states(sent) == [(State.DONE, "2.0.0")]


def test_a_key_that_was_renewed_is_unlocked_anew(
    queue: Queue, account: MemoryAccount, alice: Identity, bob: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = parcel(queue, 1, bob)

    def expired(data: bytes, recipients: object) -> bytes:
        raise OpenPGPError("expired", "our own key is expired")

    monkeypatch.setattr(alice, "seal", expired)
    account.post([sent])
    assert states(sent) == [(State.WAITING, "4.7.5")]
    account.keyring.own = person(ALICE)
    account.post([sent])
    assert states(sent) == [(State.DONE, "2.0.0")]
    assert account.keyring.unlocked == 2


def test_the_store_in_use_outlives_a_failure_of_our_own_dns(
    queue: Queue, account: MemoryAccount, bob: Identity
) -> None:
    resolver = account.resolver
    answer = resolver.answers.pop("alpha.example")
    sent = parcel(queue, 1, bob)
    account.post([sent])
    assert states(sent) == [(State.WAITING, "4.4.3")]
    resolver.answers["alpha.example"] = answer
    account.post([sent])
    del resolver.answers["alpha.example"]
    account.post([sent])
    assert states(sent) == [(State.DONE, "2.0.0")]
    resolver.answers["alpha.example"] = offer("alpha.example", OTHER_STORE, STORE)
    account.post([sent])
    assert account.connected == [STORE]
    resolver.answers["alpha.example"] = offer("alpha.example", OTHER_STORE)
    account.post([sent])
    assert account.connected == [STORE, OTHER_STORE]


def test_a_domain_without_records_of_its_own_cannot_post_yet(
    queue: Queue, account: MemoryAccount, bob: Identity
) -> None:
    resolver = account.resolver
    resolver.answers["alpha.example"] = None
    sent = parcel(queue, 1, bob)
    account.post([sent])
    assert states(sent) == [(State.WAITING, "4.4.4")]


def test_a_message_that_cannot_be_read_waits(queue: Queue, account: MemoryAccount, bob: Identity) -> None:
    sent, other = parcel(queue, 1, bob), parcel(queue, 2, bob)
    sent.stored.path.unlink()
    account.post([sent, other])
    assert states(sent) == [(State.WAITING, "4.3.0")]
    assert states(other) == [(State.DONE, "2.0.0")]


def test_the_header_of_what_was_stored_is_noted_and_nothing_else(
    queue: Queue, alice: Identity, bob: Identity, carl: Identity, tmp_path: Path
) -> None:
    resolver = MemoryResolver(**{"alpha.example": offer("alpha.example", STORE)})
    account = MemoryAccount(MemoryKeyring(alice), resolver, MemoryStore(), sent=tmp_path / "sent")
    sent, waits = parcel(queue, 1, bob, carl), parcel(queue, 2, bob)
    refused = sent.destinations[1].post_id
    account.memory.errors = {refused: "quota", waits.destinations[0].post_id: "quota"}
    account.post([sent, waits])
    stored = sent.destinations[0].post_id
    found = SentRecords(tmp_path / "sent", ALICE).find([stored, refused, waits.destinations[0].post_id], 0)
    assert set(found) == {stored}
    assert found[stored].header == MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n"
    assert found[stored].posts == ((stored, BOB),)
    assert found[stored].mail_from == ALICE
    account.memory.errors.clear()
    account.post([waits])
    assert SentRecords(tmp_path / "sent", ALICE).find([waits.destinations[0].post_id], 0)


def test_the_puller_hears_what_notices_of_expiry_need_and_who_wants_none(
    queue: Queue, alice: Identity, bob: Identity, carl: Identity, tmp_path: Path
) -> None:
    resolver = MemoryResolver(**{"alpha.example": offer("alpha.example", STORE)})
    account = MemoryAccount(MemoryKeyring(alice), resolver, MemoryStore(), sent=tmp_path / "sent")
    sent = parcel(queue, 1, bob, carl)
    first, second = sent.stored.item.recipients
    asked = replace(first, original="rfc822;bobby@beta.example"), replace(second, notify="NEVER")
    sent.stored = replace(sent.stored, item=replace(sent.stored.item, recipients=asked, envid="QQ1"))
    account.post([sent])
    found = SentRecords(tmp_path / "sent", ALICE).find([first.post_id, second.post_id], 0)
    assert (found[first.post_id].mail_from, found[second.post_id].mail_from) == (ALICE, None)
    assert found[first.post_id].posts == ((first.post_id, BOB),)
    assert found[first.post_id].envid == "QQ1"
    assert found[first.post_id].originals == ((first.post_id, "rfc822;bobby@beta.example"),)


def test_a_note_that_cannot_be_written_keeps_no_mail_back(
    queue: Queue, alice: Identity, bob: Identity, tmp_path: Path
) -> None:
    (tmp_path / "sent").write_text("in the way")
    resolver = MemoryResolver(**{"alpha.example": offer("alpha.example", STORE)})
    account = MemoryAccount(MemoryKeyring(alice), resolver, MemoryStore(), sent=tmp_path / "sent")
    sent = parcel(queue, 1, bob)
    account.post([sent])
    assert states(sent) == [(State.DONE, "2.0.0")]
