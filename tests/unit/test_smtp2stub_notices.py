"""Notices reach the sender's own mbox, each once, whatever happened on the way."""

import logging
from pathlib import Path

import pytest

from services.smtp2stub.notices import Notices
from stubmail.errors import PermanentError
from stubmail.mbox import Mbox
from stubmail.queue import Outcome, Progress, Queue, State, Stored
from stubmail.users import User, Users
from tests.support.gateway import ALICE, BOB, CAROL, NOW, accept, make_item, make_queue

SECRET = b"From: alice@alpha.example\r\nSubject: plan\r\n\r\nsecret text\r\n"


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return make_queue(tmp_path / "spool")


@pytest.fixture
def stored(queue: Queue) -> Stored:
    accept(queue, make_item(1, BOB, CAROL), message=SECRET)
    return queue.file(queue.arrived(make_item(1).id)[0])


def notices(queue: Queue, maildrop: str) -> Notices:
    users = Users([User("alice", ALICE, "{PLAIN}x", maildrop)])
    return Notices(queue, lambda: users, "gate.alpha.example", 86_400.0, lambda: NOW)


def progress(number: int = 1) -> Progress:
    failed = Outcome(State.FAILED, "5.1.1", "no such user", "stub", number)
    return Progress([failed, Outcome(State.DONE)], 1, 0.0, number)


def content(mbox: Path) -> bytes:
    snapshot = Mbox(mbox).snapshot()
    return b"".join(piece for index in range(len(snapshot)) for piece in snapshot.chunks(index))


def test_a_notice_is_delivered_once(queue: Queue, stored: Stored, tmp_path: Path) -> None:
    mbox = tmp_path / "alice"
    for _ in range(3):
        notices(queue, f"mbox:{mbox}").deliver(stored, progress())
    assert len(Mbox(mbox).snapshot()) == 1
    text = content(mbox)
    assert b"bob@beta.example" in text
    assert b"carol" not in text.partition(b"message/delivery-status")[2].partition(b"rfc822-headers")[0]
    assert b"Subject: plan" in text
    assert b"secret text" not in text
    assert queue.told(stored.item.id) == 1


def test_the_next_notice_is_another_one(queue: Queue, stored: Stored, tmp_path: Path) -> None:
    mbox = tmp_path / "alice"
    notices(queue, f"mbox:{mbox}").deliver(stored, progress(1))
    notices(queue, f"mbox:{mbox}").deliver(stored, progress(2))
    assert len(Mbox(mbox).snapshot()) == 2


def test_a_delay_that_is_over_is_not_told_any_more(queue: Queue, stored: Stored, tmp_path: Path) -> None:
    mbox = tmp_path / "alice"
    over = Progress([Outcome(State.DONE), Outcome(State.DONE)], 2, 0.0, 1, {0: 1})
    notices(queue, f"mbox:{mbox}").deliver(stored, over)
    assert not mbox.exists()
    assert queue.told(stored.item.id) == 1


def test_a_notice_that_arrived_without_our_knowing_is_not_sent_again(
    queue: Queue, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mbox = tmp_path / "alice"

    def full(self: Queue, queue_id: str, number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "tell", full)
        with pytest.raises(OSError, match="No space"):
            notices(queue, f"mbox:{mbox}").deliver(stored, progress())
    assert queue.told(stored.item.id) == 0
    notices(queue, f"mbox:{mbox}").deliver(stored, progress())
    assert queue.told(stored.item.id) == 1
    assert len(Mbox(mbox).snapshot()) == 1


@pytest.mark.parametrize("maildrop", ["", "maildir:/somewhere"])
def test_an_account_without_an_mbox_cannot_be_told(queue: Queue, stored: Stored, maildrop: str) -> None:
    with pytest.raises(PermanentError) as caught:
        notices(queue, maildrop).deliver(stored, progress())
    assert caught.value.code == "5.3.5"


def test_the_log_says_so(queue: Queue, stored: Stored, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    notices(queue, f"mbox:{tmp_path / 'alice'}").deliver(stored, progress())
    assert f"{stored.item.id} notified" in caplog.text
