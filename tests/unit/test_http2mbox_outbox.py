"""An account's own posts that ended unfetched: one notice each, or for each message, and never a second one."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from services.http2mbox import outbox as outbox_module
from services.http2mbox.account import Account
from services.http2mbox.incoming import Stopped
from services.http2mbox.outbox import LOOK_BACK, OVERLAP, OwnOutbox, Told
from services.http2mbox.pull import Limits
from services.http2mbox.state import AccountTrouble, State, StateError
from stubmail.address import Address
from stubmail.discovery import Store
from stubmail.errors import TemporaryError
from stubmail.mbox import Mbox
from stubmail.sent import Record, SentLog, SentRecords
from stubmail.store_answers import Outbox, Sent
from tests.support.fake_store import BOB, ListMaildrop, make_account

HOME = Store("post.beta.example", 8080, "post_manager")
CARL, DORA = Address("carl", "alpha.example"), Address("dora", "gamma.example")
NOW = 1_800_000_000
HEADER = b"From: bob@beta.example\r\nMessage-ID: <1@beta.example>\r\nSubject: the plan\r\n"


def sent(number: int, state: str = "expired", to: Address = CARL, changed: int = NOW - 100) -> Sent:
    return Sent(number.to_bytes(16, "big"), number, "CA" * 20, to, 900, state, changed - 5000, changed, changed - 10)


@dataclass
class Home:
    """The store of the account's own domain; ``asked`` are the (since, after) of what it was asked."""

    posts: list[Sent] = field(default_factory=list)
    asked: list[tuple[int | None, int]] = field(default_factory=list)
    failure: Exception | None = None

    def outbox(self, after: int = 0, limit: int = 1000, states: Sequence[str] = (), since: int | None = None) -> Outbox:
        self.asked.append((since, after))
        if self.failure is not None:
            raise self.failure
        found = [post for post in self.posts if post.state in states]
        if since is None:
            found = sorted((p for p in found if p.serial > after), key=lambda p: p.serial)
        else:
            found = [post for post in found if (post.changed, post.serial) > (since, after)]
            found.sort(key=lambda post: (post.changed, post.serial))
        return Outbox(tuple(found[:limit]), len(found) > limit)


class Rig:
    """Bob's outbox; ``now`` is the time."""

    def __init__(self, directory: Path, limits: Limits | None = None) -> None:
        self.now = float(NOW)
        self.home = Home()
        self.stores: Sequence[Store] = (HOME,)
        self.maildrop = ListMaildrop()
        self.account: Account = make_account(directory, self.maildrop, clock=lambda: self.now)
        self.sent = SentLog(directory / "sent", BOB)
        self.records = SentRecords(directory / "sent", BOB)
        self.limits = limits or Limits(100_000)
        self.outbox = self.make(self.limits)

    def make(self, limits: Limits) -> OwnOutbox:
        return OwnOutbox(
            self.account,
            lambda: self.stores,
            lambda _: self.home,
            self.records,
            limits,
            rng=random.Random(1),
            clock=lambda: self.now,
        )

    def look(self, *, full: bool = False) -> Told:
        told = Told()
        self.outbox.look(told, full=full, stopping=lambda: False)
        return told

    def notices(self) -> list[EmailMessage]:
        contents = [delivery.content for delivery in self.maildrop.messages]
        return [message_from_bytes(each, policy=policy.SMTP) for each in contents if isinstance(each, bytes)]  # type: ignore[misc]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.account.close()


def recipients(notice: EmailMessage) -> list[dict[str, str]]:
    [status] = [part for part in notice.walk() if part.get_content_type() == "message/delivery-status"]
    return [dict(each.items()) for each in status.get_payload()][1:]


def test_an_expired_post_becomes_one_notice_with_the_header_of_its_message(rig: Rig) -> None:
    post = sent(1)
    rig.home.posts = [post]
    rig.sent.add([Record(BOB, ((post.id, CARL),), HEADER)], post.stored)
    assert rig.look() == Told(delivered=1)
    [notice] = rig.notices()
    assert (notice.get_content_type(), notice.get_param("report-type")) == ("multipart/report", "delivery-status")
    assert notice["To"] == str(BOB)
    [told] = recipients(notice)
    assert told["Final-Recipient"] == f"rfc822; {CARL}"
    assert (told["Action"], told["Status"]) == ("failed", "5.4.7")
    assert told["Remote-MTA"] == "dns; post.beta.example"
    assert told["X-Stub-Post-ID"] == post.id.hex()
    assert "Last-Attempt-Date" in told
    quoted = list(notice.iter_parts())[-1]
    assert (quoted.get_content_type(), quoted.get_content()) == ("text/rfc822-headers", HEADER.decode())


def test_a_notice_says_by_what_the_sender_wanted_to_find_it(rig: Rig) -> None:
    post = sent(1)
    rig.home.posts = [post]
    asked = ((post.id, "rfc822;carl+2Bx@gamma.example"),)
    rig.sent.add([Record(BOB, ((post.id, CARL),), HEADER, envid="QQ+2B1", originals=asked)], post.stored)
    assert rig.look() == Told(delivered=1)
    [notice] = rig.notices()
    [told] = recipients(notice)
    assert told["Original-Recipient"] == "rfc822; carl+x@gamma.example"
    assert b"Original-Envelope-Id: QQ+1\n" in notice.as_bytes().replace(b"\r\n", b"\n")


def test_a_withdrawn_post_is_told_of_as_such(rig: Rig) -> None:
    rig.home.posts = [sent(1, "withdrawn")]
    rig.look()
    [notice] = rig.notices()
    assert [told["Status"] for told in recipients(notice)] == ["5.0.0"]
    assert "withdrawn by its sender" in notice.as_string()


def test_what_was_fetched_or_waits_is_no_news(rig: Rig) -> None:
    rig.home.posts = [sent(1, "fetched"), sent(2, "waiting")]
    assert rig.look() == Told()
    assert rig.maildrop.messages == []


def test_posts_of_one_message_share_a_notice_and_others_do_not(rig: Rig) -> None:
    rig.home.posts = [sent(1), sent(2, to=DORA), sent(3)]
    ids = [(post.id, post.address) for post in rig.home.posts]
    rig.sent.add([Record(BOB, tuple(ids[:2]), HEADER), Record(BOB, (ids[2],), HEADER)], NOW - 5000)
    assert rig.look().delivered == 2
    assert sorted(len(recipients(notice)) for notice in rig.notices()) == [1, 2]


def test_without_a_record_the_notice_says_what_the_store_knows(rig: Rig) -> None:
    rig.home.posts = [sent(1)]
    rig.look()
    [notice] = rig.notices()
    quoted = list(notice.iter_parts())[-1].get_content()
    assert quoted.startswith(f"From: <{BOB}>\r\nTo: <{CARL}>\r\nDate: ")


def test_records_that_cannot_be_read_keep_no_notice_back(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "sent").write_text("not a directory")
    rig.home.posts = [sent(1)]
    assert rig.look().delivered == 1


def test_nobody_is_told_of_a_message_from_the_null_sender(rig: Rig) -> None:
    rig.home.posts = [sent(1)]
    rig.sent.add([Record(None, ((rig.home.posts[0].id, CARL),), HEADER)], NOW - 5000)
    assert rig.look() == rig.look(full=True) == Told()
    assert rig.maildrop.messages == []


def test_nothing_is_told_twice_however_often_it_is_looked_for(rig: Rig, tmp_path: Path) -> None:
    rig.home.posts = [sent(1)]
    rig.look()
    assert rig.look(full=True) == Told()
    rig.home.posts.append(sent(2))
    assert rig.look(full=True).delivered == 1
    rig.outbox = rig.make(rig.limits)  # another process
    assert rig.look(full=True) == Told()


def test_a_store_restored_from_a_backup_is_not_told_of_again(rig: Rig) -> None:
    rig.home.posts = [sent(1)]
    rig.look()
    rig.home.posts = [sent(1, "waiting")]
    rig.look(full=True)
    rig.now += 7200
    rig.home.posts = [sent(1, changed=int(rig.now) - 5)]
    assert rig.look() == Told()
    assert len(rig.maildrop.messages) == 1


def test_it_is_looked_again_once_a_period_also_after_a_restart(rig: Rig) -> None:
    rig.look()
    rig.look()
    assert not rig.outbox.is_due()
    rig.outbox = rig.make(rig.limits)
    rig.look()
    assert len(rig.home.asked) == 1
    rig.now += 1.2 * 3600
    assert rig.outbox.is_due()
    rig.look()
    assert rig.home.asked == [(NOW - LOOK_BACK, 0), (NOW - OVERLAP, 0)]


def test_a_clock_that_was_set_back_delays_nothing(rig: Rig) -> None:
    rig.look()
    rig.now -= 30 * 86_400
    rig.home.posts = [sent(1, changed=int(rig.now) - 100)]
    assert rig.look().delivered == 1


def test_many_are_paged_through(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "PAGE", 3)
    rig.home.posts = [sent(number, changed=NOW - number // 4) for number in range(1, 20)]
    assert rig.look().delivered == 19
    assert len({delivery.id for delivery in rig.maildrop.messages}) == 19
    assert len(rig.home.asked) == 7


def test_a_domain_without_a_store_is_passed_over(rig: Rig) -> None:
    rig.stores = ()
    assert rig.look() == Told()
    assert rig.home.asked == []
    assert not rig.outbox.is_due()


def test_a_store_that_fails_is_asked_again(rig: Rig) -> None:
    rig.home.failure = TemporaryError("4.4.1", "down")
    with pytest.raises(TemporaryError):
        rig.look()
    assert rig.outbox.is_due()


def test_an_end_of_the_process_is_heard_between_pages(rig: Rig) -> None:
    with pytest.raises(Stopped):
        rig.outbox.look(Told(), full=False, stopping=lambda: True)
    assert rig.outbox.is_due()


@pytest.mark.parametrize(
    "wrong",
    [
        [sent(1, "waiting")],
        [sent(2), sent(1)],
        [sent(1), sent(1)],
        [replace(sent(1), serial=2**63)],
        [replace(sent(1), changed=10**15)],
        [replace(sent(1), stored=-1)],
        [sent(1), replace(sent(1), serial=2)],
        [sent(1, changed=5)],
    ],
)
def test_pages_that_cannot_be_are_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch, wrong: list[Sent]) -> None:
    monkeypatch.setattr(rig.home, "outbox", lambda *_: Outbox(tuple(wrong), False))
    with pytest.raises(TemporaryError):
        rig.look()
    assert rig.maildrop.messages == []


def test_more_of_nothing_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.home, "outbox", lambda *_: Outbox((), True))
    with pytest.raises(TemporaryError):
        rig.look()


def test_a_dry_run_only_counts(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Limits(100_000, dry_run=True))
    rig.home.posts = [sent(1), sent(2)]
    assert rig.look(full=True) == rig.look(full=True) == Told(waiting=2)
    assert rig.maildrop.messages == []
    assert rig.account.state.watch() == (0, 0)
    rig.account.close()


def test_a_maildrop_that_fails_is_the_accounts_own_trouble(rig: Rig) -> None:
    rig.home.posts = [sent(1)]
    rig.maildrop.failure = TemporaryError("4.3.1", "full")
    with pytest.raises(AccountTrouble):
        rig.look()
    rig.maildrop.failure = None
    assert rig.look().delivered == 1


def test_a_notice_that_is_there_without_our_knowing_covers_its_posts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    rig.account = make_account(tmp_path, Mbox(tmp_path / "mbox", 5.0), clock=lambda: rig.now)
    rig.outbox = rig.make(rig.limits)
    rig.home.posts = [sent(1)]
    ids = tuple((number.to_bytes(16, "big"), CARL) for number in (1, 2))
    rig.sent.add([Record(BOB, ids, HEADER)], NOW - 5000)

    def fail(self: State, names: Sequence[str], now: int) -> None:
        raise StateError("4.3.0", "full")

    with monkeypatch.context() as patch:
        patch.setattr(State, "record", fail)
        with pytest.raises(AccountTrouble):
            rig.look()
    rig.home.posts.append(sent(2))  # of the same message
    assert rig.look().delivered == 1
    snapshot = Mbox(tmp_path / "mbox").snapshot()
    texts = [b"".join(snapshot.chunks(at)) for at in range(len(snapshot))]
    assert [text.count(b"X-Stub-Post-ID: ") for text in texts] == [1, 1]
    rig.account.close()


def test_headers_are_forgotten_once_all_posts_of_their_time_are_dealt_with(rig: Rig) -> None:
    for number, stored in ((1, NOW - 90_000), (2, NOW - 60_000), (3, NOW - 30_000)):
        rig.sent.add([Record(BOB, ((number.to_bytes(16, "big"), CARL),), HEADER)], stored)
    ids = [number.to_bytes(16, "big") for number in (1, 2, 3)]
    rig.home.posts = [replace(sent(2, "waiting"), stored=NOW - 60_000)]
    rig.look()
    assert set(rig.records.find(ids, 0)) == set(ids[1:])
    rig.home.posts = []
    rig.look(full=True)
    assert rig.records.find(ids, 0) == {}
