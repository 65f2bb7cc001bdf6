"""What is held: one notice for each sender and cause, and what a person decides about it."""

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from services.http2mbox import held
from services.http2mbox.state import AccountTrouble
from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.frames import Frame
from stubmail.maildrops import Committed
from stubmail.mbox import Delivery, Mbox
from stubmail.pull_state import DROP, RELEASE
from stubmail.store_answers import Other
from tests.support.fake_store import ALICE, ALICE_KEY, STRANGER_KEY, make_account
from tests.support.pulling import DOMAIN, Setup, forged


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[Setup]:
    bob = Setup(tmp_path)
    yield bob
    bob.account.close()


def test_one_notice_tells_of_a_sender_and_a_cause_however_many_posts_there_are(bob: Setup) -> None:
    for number in range(1, 6):
        bob.store.put(bytes([number] * 16), b"garbage")
    assert bob.pull().notices == 1
    notice = bob.notices()[0].decode()
    assert "Subject: Mail from alice@alpha.example is held back (malformed)\r\n" in notice
    assert "To: bob@beta.example\r\n" in notice and "Auto-Submitted: auto-generated\r\n" in notice
    assert "5 messages wait at post.alpha.example" in notice
    assert f"stubmail held release {'01' * 16}\r\n" in notice
    bob.store.put(bytes([7] * 16), b"garbage")
    assert (bob.pull().notices, len(bob.notices())) == (0, 1)
    forged(bob, "unsigned")
    assert (bob.pull().notices, len(bob.notices())) == (1, 2)


def test_a_correspondent_with_another_key_is_named_in_a_notice_with_both(bob: Setup) -> None:
    bob.store.others = (Other(STRANGER_KEY, ALICE, 3),)
    assert bob.pull().notices == 1
    notice = bob.notices()[0].decode()
    assert "(key-changed)" in notice and "3 messages wait" in notice
    assert f"Key that came with it:    {STRANGER_KEY}\r\n" in notice
    assert f"Key(s) in your keyring:   {ALICE_KEY}\r\n" in notice
    bob.store.others = (Other("5F" * 20, ALICE, 3), Other(STRANGER_KEY, ALICE, 3))
    assert bob.pull().notices == 0  # ever new keys do not fill the maildrop


def test_a_notice_that_could_not_be_delivered_comes_with_the_next_pass(bob: Setup) -> None:
    bob.store.put(bytes(16), b"garbage")
    bob.maildrop.failure = OSError(28, "No space left on device")
    with pytest.raises(AccountTrouble):
        bob.pull()
    bob.maildrop.failure = None
    assert bob.pull().notices == 1


@pytest.mark.parametrize("kind", ["unsigned", "unknown-signer", "recipient", "from", "envelope"])
def test_a_released_post_is_delivered_once_with_a_warning(bob: Setup, kind: str) -> None:
    bad = forged(bob, kind)
    bob.pull()
    content = bob.store.posts[bad]
    bob.account.state.decide([(bad, ALICE_KEY)], RELEASE)
    assert bob.account.state.decided_domains() == {DOMAIN}
    assert (bob.pull().delivered, bob.pull().delivered) == (1, 0)
    (message,) = [message.content for message in bob.maildrop.messages if message.sender]
    lines = message.split(b"\r\n")
    assert lines[0].startswith(f"X-Stub-Warning: NOT VERIFIED ({kind}): ".encode())
    assert lines[2] == f'Authentication-Results: beta.example; x-stub=fail reason="{kind}"'.encode()
    assert bob.store.acknowledged == [bad]
    assert (bob.standing().held, bob.account.state.decided_domains()) == (0, set())
    bob.store.posts[bad] = content
    assert bob.pull().delivered == 0


@pytest.mark.parametrize("kind", ["malformed", "not-for-us", "too-large"])
def test_what_cannot_be_read_cannot_be_released(bob: Setup, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    bad = forged(bob, kind)
    bob.pull()
    bob.account.state.decide([(bad, ALICE_KEY)], RELEASE)
    with caplog.at_level(logging.WARNING):
        assert bob.pull().delivered == 0
    assert "not-released" in caplog.text
    assert (bob.standing().held, bob.account.state.decided_domains()) == (1, set())


def test_a_post_under_the_address_of_another_may_be_released(bob: Setup) -> None:
    listed = bob.store.put_message(1)
    bob.store.relist(listed.id, address=Address("carol", "alpha.example"))
    bob.pull()
    bob.account.state.decide([(listed.id, listed.sender)], RELEASE)
    assert bob.pull().delivered == 1
    assert b"NOT VERIFIED (key-mismatch)" in bob.maildrop.messages[-1].content


def test_a_dropped_post_is_acknowledged_and_never_delivered(bob: Setup) -> None:
    bad = forged(bob, "unsigned")
    bob.pull()
    content = bob.store.posts[bad]
    bob.account.state.decide([(bad, ALICE_KEY)], DROP)
    bob.store.lose_acks = -1
    with pytest.raises(TemporaryError):
        bob.pull()
    assert bob.pull().delivered == 0
    assert (bob.store.acknowledged, bob.texts(), bob.standing().held) == ([bad], [], 0)
    bob.store.posts[bad] = content  # the store was restored from a backup
    bob.pull()
    assert (bob.store.acknowledged, bob.texts()) == ([bad] * 2, [])


def test_a_decision_that_comes_during_a_pass_is_not_lost(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = forged(bob, "unsigned")
    bob.pull()
    monkeypatch.setattr(held, "HELD_SECONDS", 0)  # another try with every pass
    fetch = bob.store.fetch

    def decide_meanwhile(posts: Sequence[tuple[bytes, int]]) -> Iterator[Frame | bytes]:
        bob.account.state.decide([(bad, ALICE_KEY)], RELEASE)
        return fetch(posts)

    monkeypatch.setattr(bob.store, "fetch", decide_meanwhile)
    assert (bob.pull().delivered, bob.pull().delivered) == (0, 1)


def test_what_the_maildrop_refuses_is_held_with_its_words_and_the_rest_is_delivered(
    bob: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = bob.maildrop.deliver

    def picky(messages: Sequence[Delivery], committed: Committed) -> dict[str, str]:
        refused = {message.id: "no such user" for message in messages if b"no. 2" in message.content}
        deliver([message for message in messages if message.id not in refused], committed)
        return refused

    monkeypatch.setattr(bob.maildrop, "deliver", picky)
    posts = [bob.store.put_message(number) for number in range(4)]
    tally = bob.pull()
    assert (tally.delivered, tally.held, tally.notices) == (3, 1, 1)
    assert bob.store.acknowledged == [post.id for post in posts if post.id != posts[2].id]
    (kept,) = bob.account.state.held().values()
    assert (kept.id, kept.reason, kept.text) == (posts[2].id, "maildrop", "no such user")
    monkeypatch.undo()
    bob.account.state.decide([kept.key], RELEASE)
    assert bob.pull().delivered == 1
    assert b"X-Stub-Warning" not in bob.maildrop.messages[-1].content  # nothing was wrong with it


def test_a_notice_that_the_maildrop_refuses_is_tried_once(bob: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refusing(messages: Sequence[Delivery], committed: Committed) -> dict[str, str]:
        calls.extend(messages)
        return {message.id: "no" for message in messages}

    monkeypatch.setattr(bob.maildrop, "deliver", refusing)
    forged(bob, "unsigned")
    assert [bob.pull().notices for _ in range(2)] == [0, 0]
    assert len(calls) == 1


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC])
def test_quota_and_full_disk_are_no_reason_to_hold(
    bob: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    bob.account.close()
    (tmp_path / "full").mkdir()
    mailbox = Mbox(tmp_path / "mbox")
    bob.account = make_account(tmp_path / "full", mailbox)
    bob.store.put_message(1)

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(AccountTrouble, match=os.strerror(number)):
        bob.pull()
    monkeypatch.undo()
    assert (bob.store.acknowledged, bob.standing().held, len(mailbox.snapshot())) == ([], 0, 0)
    assert bob.pull().delivered == 1
    assert len(mailbox.snapshot()) == 1
