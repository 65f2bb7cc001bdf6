"""Notices reach the sender's own maildrop, each once, whatever happened on the way."""

import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.smtp2stub.notices import Notices
from stubmail.errors import PermanentError, TemporaryError
from stubmail.mbox import Mbox
from stubmail.queue import Outcome, Progress, Queue, State, Stored
from stubmail.users import User, Users
from tests.support.gateway import ALICE, BOB, CAROL, NOW, accept, make_item, make_queue
from tests.support.waiting import wait_until

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
    return Notices(queue, lambda: users, "gate.alpha.example", 86_400.0, 20.0, lambda: NOW)


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
        with pytest.raises(TemporaryError, match="No space"):
            notices(queue, f"mbox:{mbox}").deliver(stored, progress())
    assert queue.told(stored.item.id) == 0
    notices(queue, f"mbox:{mbox}").deliver(stored, progress())
    assert queue.told(stored.item.id) == 1
    assert len(Mbox(mbox).snapshot()) == 1


@pytest.mark.parametrize("maildrop", ["", "pipe:no/absolute/path"])
def test_an_account_without_a_maildrop_cannot_be_told(queue: Queue, stored: Stored, maildrop: str) -> None:
    with pytest.raises(PermanentError) as caught:
        notices(queue, maildrop).deliver(stored, progress())
    assert caught.value.code == "5.3.5"


def test_the_log_says_so(queue: Queue, stored: Stored, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    notices(queue, f"mbox:{tmp_path / 'alice'}").deliver(stored, progress())
    assert f"{stored.item.id} notified" in caplog.text


# Maildirs

STEPS = ("fsync", "rename", "replace", "unlink", "mkdir")


class Crash(BaseException):
    """The process is gone: nothing that it still means to do happens."""


class Machine:
    """Counts the calls that change the disk, and dies right before the one with the number ``last``; 0: never."""

    def __init__(self, last: int) -> None:
        self.count = 0
        self._last = last

    @contextmanager
    def running(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, self._step(getattr(os, name)))
            yield

    def _step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if 0 < self._last <= self.count:
                raise Crash
            return function(*args, **kwargs)

        return step


def test_a_maildir_gets_each_notice_once_wherever_the_gateway_dies(tmp_path: Path) -> None:
    last = steps = 0
    while last <= steps:
        place = tmp_path / str(last)
        queue, maildir = make_queue(place / "spool"), place / "Maildir"
        accept(queue, make_item(1, BOB, CAROL), message=SECRET)
        stored = queue.file(queue.arrived(make_item(1).id)[0])
        machine = Machine(last)
        try:
            with machine.running():
                notices(queue, f"maildir:{maildir}").deliver(stored, progress())
            assert last == 0
            steps = machine.count
        except Crash:
            assert last
        for path in (maildir / "new").glob("*"):  # the reader has seen what there is
            path.rename(maildir / "cur" / f"{path.name}:2,S")
        for _ in range(2):
            notices(queue, f"maildir:{maildir}").deliver(stored, progress())
        found = [path for name in ("new", "cur") for path in (maildir / name).iterdir()]
        assert len(found) == 1, f"killed before step {last}"
        assert b"bob@beta.example" in found[0].read_bytes()
        assert queue.told(stored.item.id) == 1
        notices(queue, f"maildir:{maildir}").deliver(stored, progress(2))
        assert len(list((maildir / "new").iterdir())) + len(list((maildir / "cur").iterdir())) == 2
        left = [*(maildir / "tmp").iterdir(), *(path for path in (queue.root / "notices").rglob("*") if path.is_file())]
        assert left == [], f"killed before step {last}"
        last += 1
    assert steps > 10


def test_a_maildir_that_is_away_is_waited_for(queue: Queue, stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "Maildir").mkdir()  # where its disk is not mounted
    with pytest.raises(TemporaryError, match="No such file"):
        notices(queue, f"maildir:{tmp_path / 'Maildir'}").deliver(stored, progress())
    assert queue.told(stored.item.id) == 0


def test_a_journal_of_another_maildir_does_not_tell_that_a_notice_is_in_this_one(
    queue: Queue, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    for name in ("tmp", "new", "cur"):
        (tmp_path / "one" / name).mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", broken)
        with pytest.raises(TemporaryError, match="Input/output"):
            notices(queue, f"maildir:{tmp_path / 'one'}").deliver(stored, progress())
    notices(queue, f"maildir:{tmp_path / 'two'}").deliver(stored, progress())
    assert len(list((tmp_path / "two" / "new").iterdir())) == 1


# Delivery programs


def pipe(program: str, *arguments: Path) -> str:
    return "pipe:" + shlex.join([sys.executable, "-S", "-c", program, *map(str, arguments)])


def test_a_delivery_program_gets_a_notice_once(queue: Queue, stored: Stored, tmp_path: Path) -> None:
    program = (
        "import os, sys; e = os.environ\n"
        "open(sys.argv[1], 'a').write(repr((e['SENDER'], e['RECIPIENT'], e['STUB_POST_ID'])) + sys.stdin.read())"
    )
    for _ in range(2):
        notices(queue, pipe(program, tmp_path / "out")).deliver(stored, progress())
    text = (tmp_path / "out").read_text()
    assert text.startswith(f"('', 'alice@alpha.example', '{stored.item.id}.1')")
    assert text.count("message/delivery-status") == 1
    assert queue.told(stored.item.id) == 1


def test_what_a_delivery_program_cannot_take_now_is_tried_again(queue: Queue, stored: Stored) -> None:
    with pytest.raises(TemporaryError, match="EX_TEMPFAIL"):
        notices(queue, pipe("raise SystemExit(75)")).deliver(stored, progress())
    with pytest.raises(TemporaryError, match="/nonexistent/mda: No such file"):
        notices(queue, "pipe:/nonexistent/mda").deliver(stored, progress())
    assert queue.told(stored.item.id) == 0


def test_what_a_delivery_program_refuses_is_for_a_person(queue: Queue, stored: Stored) -> None:
    with pytest.raises(PermanentError, match="EX_NOUSER") as caught:
        notices(queue, pipe("raise SystemExit(67)")).deliver(stored, progress())
    assert caught.value.code == "5.2.0"
    assert queue.told(stored.item.id) == 0


def test_a_delivery_program_at_work_is_ended_with_the_gateway(queue: Queue, stored: Stored, tmp_path: Path) -> None:
    told = notices(queue, pipe("import sys, time; open(sys.argv[1], 'w'); time.sleep(600)", tmp_path / "out"))
    errors: list[TemporaryError] = []

    def deliver() -> None:
        try:
            told.deliver(stored, progress())
        except TemporaryError as error:
            errors.append(error)

    thread = threading.Thread(target=deliver)
    thread.start()
    wait_until((tmp_path / "out").exists, 20)
    told.interrupt()
    thread.join(20)
    assert not thread.is_alive() and len(errors) == 1
    assert queue.told(stored.item.id) == 0
