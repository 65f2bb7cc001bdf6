"""A Maildir as a maildrop: each message once, whatever ends the delivery and whatever its reader does meanwhile."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from stubmail.maildrops.maildir import SWEPT_SECONDS, Maildir
from stubmail.mbox import Delivery

NOW = 1_700_000_000.0
TEXTS = [f"From: a@b.example\r\n\r\nText {number}\r\n".encode() for number in range(3)]


class Drop:
    """A Maildir and what it has reported; ``now`` is its clock."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "Maildir"
        self.journal = directory / "maildir.json"
        self.now = NOW
        self.recorded: list[str] = []
        self.maildir = self.open()

    def open(self) -> Maildir:
        return Maildir(self.path, self.journal, "bob", lambda: self.now, "mail.beta.example")

    def record(self, ids: Sequence[str]) -> None:
        self.recorded += ids

    def crash(self, ids: Sequence[str]) -> None:
        raise OSError(errno.EIO, "the disk with the records is gone")

    def deliver(self, committed: object = None) -> None:
        messages = [Delivery(f"id/{number}", "a@b.example", NOW, text) for number, text in enumerate(TEXTS)]
        self.maildir.deliver(messages, committed or self.record)  # type: ignore[arg-type]

    def texts(self, name: str = "new") -> list[bytes]:
        return [path.read_bytes() for path in sorted((self.path / name).iterdir())]


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path)


STORED = [text.replace(b"\r\n", b"\n") for text in TEXTS]


def test_messages_are_files_in_new_in_their_order_for_their_owner_only(drop: Drop) -> None:
    drop.deliver()
    assert drop.texts() == STORED
    assert drop.recorded == ["id/0", "id/1", "id/2"]
    files = sorted((drop.path / "new").iterdir())
    assert all(path.name.startswith("1700000000.") and path.name.endswith(".mail.beta.example") for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert drop.path.stat().st_mode & 0o777 == 0o700
    assert not list((drop.path / "tmp").iterdir()) and not drop.journal.exists()


def test_a_last_line_without_an_end_gets_one(drop: Drop) -> None:
    drop.maildir.deliver([Delivery("id", "", NOW, b"A: b\r\n\r\nno end")], drop.record)
    assert drop.texts() == [b"A: b\n\nno end\n"]


def test_what_was_delivered_but_not_recorded_is_reported_and_not_delivered_again(drop: Drop) -> None:
    with pytest.raises(OSError, match="records"):
        drop.deliver(drop.crash)
    first, second, _ = sorted((drop.path / "new").iterdir())
    first.unlink()  # its reader has read and deleted one, and looked at another
    second.rename(drop.path / "cur" / f"{second.name}:2,S")
    drop.maildir = drop.open()
    drop.maildir.recover(drop.record)
    assert drop.recorded == ["id/0", "id/1", "id/2"]
    assert len(drop.texts()) == len(drop.texts("cur")) == 1
    assert not drop.journal.exists()


def test_the_next_delivery_leaves_out_what_an_earlier_one_had_brought(drop: Drop) -> None:
    with pytest.raises(OSError, match="records"):
        drop.deliver(drop.crash)
    drop.deliver()
    assert drop.texts() == STORED
    assert drop.recorded == ["id/0", "id/1", "id/2"]


def test_a_delivery_cut_short_between_two_renames_is_completed(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    renames = []
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        renames.append(target)
        if target.parent.name == "new" and len(renames) > 2:
            raise OSError(errno.EIO, "I/O error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="I/O"):
        drop.deliver()
    monkeypatch.undo()
    assert drop.recorded == [] and 0 < len(drop.texts()) < 3
    drop.open().recover(drop.record)
    assert drop.texts() == STORED
    assert drop.recorded == ["id/0", "id/1", "id/2"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_leaves_nothing_and_records_nothing(
    drop: Drop, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=os.strerror(number)):
        drop.deliver()
    assert (drop.recorded, drop.texts(), drop.texts("tmp"), drop.journal.exists()) == ([], [], [], False)
    drop.deliver()
    assert drop.texts() == STORED


def test_what_a_crash_left_in_tmp_before_the_journal_is_swept_and_others_files_stay(drop: Drop) -> None:
    drop.deliver()
    name = sorted((drop.path / "new").iterdir())[0].name
    (drop.path / "tmp" / name.replace("Q00000", "Q00009")).write_text("half")
    (drop.path / "tmp" / "1700000000.M1P2.elsewhere").write_text("somebody else's")
    drop.open().recover(drop.record)
    assert [path.name for path in (drop.path / "tmp").iterdir()] == ["1700000000.M1P2.elsewhere"]


def test_a_file_that_was_swept_from_tmp_in_a_long_downtime_does_not_count_as_delivered(drop: Drop) -> None:
    with pytest.raises(OSError, match="records"):
        drop.deliver(drop.crash)
    first, second, third = sorted((drop.path / "new").iterdir())
    first.unlink()
    second.rename(drop.path / "cur" / f"{second.name}:2,")
    third.rename(drop.path / "tmp" / third.name)
    drop.now += SWEPT_SECONDS + 1
    drop.open().recover(drop.record)
    assert drop.recorded == ["id/1", "id/2"]


def test_a_maildir_whose_disk_is_away_is_trouble_and_nothing_is_taken_for_delivered(drop: Drop) -> None:
    with pytest.raises(OSError, match="records"):
        drop.deliver(drop.crash)
    drop.path.rename(drop.path.with_name("elsewhere"))
    drop.path.mkdir()
    with pytest.raises(FileNotFoundError):
        drop.open().recover(drop.record)
    with pytest.raises(FileNotFoundError):
        drop.deliver()
    assert drop.recorded == [] and not list(drop.path.iterdir())


def test_a_directory_that_is_no_maildir_is_not_made_one(drop: Drop) -> None:
    drop.path.mkdir()
    with pytest.raises(FileNotFoundError):
        drop.deliver()
    assert not list(drop.path.iterdir())


def test_nothing_to_deliver_makes_nothing(drop: Drop) -> None:
    drop.maildir.deliver([], drop.record)
    drop.maildir.recover(drop.record)
    assert not drop.path.exists()


def test_a_damaged_journal_is_trouble_and_named(drop: Drop) -> None:
    drop.journal.write_bytes(b'{"time": 1')
    with pytest.raises(OSError, match="journal is damaged"):
        drop.deliver()
    assert drop.recorded == []
