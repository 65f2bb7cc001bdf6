"""A Maildir as a maildrop."""

import contextlib
import errno
import os
from pathlib import Path

import pytest

from services.pop3d import maildir, maildir_sizes
from services.pop3d.index_cache import SPOT_CHECKS, IndexCache
from services.pop3d.maildir import Maildir, MaildirLocation
from services.pop3d.maildir_listing import Listing
from services.pop3d.maildir_sizes import NAME
from services.pop3d.maildrop import InUse
from stubmail.errors import PermanentError, TemporaryError
from tests.support.waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for name in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True)
    return tmp_path / "Maildir"


def put(path: Path, place: str, name: str, content: bytes = b"a: b\n\ntext\n") -> None:
    (path / place / name).write_bytes(content)


def look(path: Path) -> list[tuple[str, int]]:
    maildrop = MaildirLocation(path).open()
    try:
        return [(maildrop.uid(index), octets) for index, octets in enumerate(maildrop.octets)]
    finally:
        maildrop.close()


def names(path: Path, place: str) -> list[str]:
    return sorted(entry.name for entry in (path / place).iterdir())


def content(maildrop: Maildir, number: int) -> bytes:
    return b"".join(maildrop.content(number))


def settle(path: Path) -> None:
    """Log in until the directory's times are old enough to be relied on."""

    def is_settled() -> bool:
        look(path)
        return Listing.from_wire((path / NAME).read_bytes()).settled

    wait_until(is_settled)


def test_new_mail_moves_to_cur_and_flags_stay(path: Path) -> None:
    put(path, "new", "1700000002.b.host")
    put(path, "cur", "1700000001.a.host:2,S")
    put(path, "new", ".hidden")
    assert look(path) == [("1700000001.a.host", 14), ("1700000002.b.host", 14)]
    assert names(path, "new") == [".hidden"]
    assert names(path, "cur") == ["1700000001.a.host:2,S", "1700000002.b.host:2,"]


def test_messages_are_in_the_order_in_which_they_came(path: Path) -> None:
    for name in ("1700000010.x", "999.x", "1700000009.x", "letters"):
        put(path, "new", name)
    assert [uid for uid, _ in look(path)] == ["letters", "999.x", "1700000009.x", "1700000010.x"]


def test_a_file_that_cannot_be_read_is_left_out_until_it_can(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, "cur", "1.x:2,")
    put(path, "cur", "2.x:2,")
    read = maildir_sizes._read

    def forbidden(file: Path) -> tuple[int, str]:
        if file.name == "1.x:2,":
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return read(file)

    monkeypatch.setattr(maildir_sizes, "settled", lambda seen, now: True)  # nothing in its times asks for another look
    with monkeypatch.context() as patch:
        patch.setattr(maildir_sizes, "_read", forbidden)
        assert look(path) == [("2.x", 14)]
    assert look(path) == [("1.x", 14), ("2.x", 14)]


@pytest.mark.parametrize(
    ("stored", "wire"),
    [
        (b"a\nb", b"a\r\nb\r\n"),
        (b"a\r\nb\rc\n", b"a\r\nb\r\nc\r\n"),
        (b"", b""),
        (b"\0\xff\n" * 50_000, b"\0\xff\r\n" * 50_000),
    ],
)
def test_sizes_are_exactly_what_is_sent(path: Path, stored: bytes, wire: bytes) -> None:
    put(path, "new", "1.x", stored)
    maildrop = MaildirLocation(path).open()
    assert content(maildrop, 1) == wire
    assert maildrop.several(1, 2) == [wire]
    assert list(maildrop.octets) == [len(wire)]
    maildrop.close()


def test_neighbours_end_before_the_first_that_is_not_as_it_was(path: Path) -> None:
    for number in range(1, 5):
        put(path, "cur", f"{number}.x:2,", b"%d\n" % number)
    maildrop = MaildirLocation(path).open()
    assert maildrop.several(2, 3) == [b"2\r\n", b"3\r\n", b"4\r\n"]
    (path / "cur" / "2.x:2,").rename(path / "cur" / "2.x:2,S")
    put(path, "cur", "4.x:2,", b"more\n")
    assert maildrop.several(1, 4) == [b"1\r\n", b"2\r\n", b"3\r\n"]
    (path / "cur" / "2.x:2,S").unlink()
    assert maildrop.several(1, 4) == [b"1\r\n"]
    maildrop.close()


def test_files_are_looked_at_one_by_one_only_when_the_directory_has_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 5):
        put(path, "cur", f"{number}.x:2,", b"%d\n" % number)
    settle(path)
    maildrop = MaildirLocation(path).open()
    files: list[int] = []
    is_as_it_was = Listing.is_as_it_was
    monkeypatch.setattr(Listing, "is_as_it_was", lambda *args: files.append(args[1] + 1) or is_as_it_was(*args))
    assert maildrop.several(1, 4) == [b"1\r\n", b"2\r\n", b"3\r\n", b"4\r\n"]
    assert files == []
    (path / "cur" / "2.x:2,").rename(path / "cur" / "2.x:2,S")
    put(path, "tmp", "another", b"x\n")
    (path / "tmp" / "another").rename(path / "cur" / "4.x:2,")
    for _ in range(2):
        assert maildrop.several(1, 4) == [b"1\r\n", b"2\r\n", b"3\r\n"], "another file in the place of one"
        assert files == [1, 2, 3, 4]
        files.clear()
    maildrop.close()


def test_neighbours_that_another_program_has_renamed_are_looked_for_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 51):
        put(path, "cur", f"{number}.x:2,", b"%d\n" % number)
    maildrop = MaildirLocation(path).open()
    for number in range(2, 51):
        (path / "cur" / f"{number}.x:2,").rename(path / "cur" / f"{number}.x:2,S")
    scans: list[Path] = []
    messages_in = maildir.messages_in
    monkeypatch.setattr(maildir, "messages_in", lambda directory: scans.append(directory) or messages_in(directory))
    assert maildrop.several(1, 50) == [b"%d\r\n" % number for number in range(1, 51)]
    assert len(scans) == 1
    maildrop.close()


@pytest.mark.parametrize("text", [b"", b"3", b"3\n4\n"])
def test_a_file_that_was_written_to_in_its_place_is_not_among_neighbours(path: Path, text: bytes) -> None:
    for number in range(1, 5):
        put(path, "cur", f"{number}.x:2,", b"%d\n" % number)
    settle(path)
    maildrop = MaildirLocation(path).open()
    put(path, "cur", "3.x:2,", text)
    assert maildrop.several(1, 4) == [b"1\r\n", b"2\r\n"]
    assert maildrop.several(3, 2) == []
    with pytest.raises(TemporaryError):
        content(maildrop, 3)
    maildrop.close()


def test_from_lines_are_content_here(path: Path) -> None:
    put(path, "new", "1.x", b"\n>From x\n")
    maildrop = MaildirLocation(path).open()
    assert content(maildrop, 1) == b"\r\n>From x\r\n"
    maildrop.close()


def test_sizes_are_kept_and_not_believed_when_the_file_is_another(path: Path) -> None:
    put(path, "new", "1.x", b"short\n")
    assert look(path) == [("1.x", 7)]
    assert look(path) == [("1.x", 7)]
    put(path, "cur", "1.x:2,", b"not so short\n")
    assert look(path) == [("1.x", 14)]


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files were looked at."""
    names: list[str] = []
    status = maildir_sizes._status

    def counting(cur: int, name: str) -> os.stat_result:
        names.append(name)
        return status(cur, name)

    monkeypatch.setattr(maildir_sizes, "_status", counting)
    return names


@pytest.mark.parametrize("cache", [IndexCache(), None], ids=["memory", "file"])
def test_a_login_looks_at_all_files_only_when_the_directory_has_changed(
    path: Path, looked: list[str], cache: IndexCache | None
) -> None:
    for number in range(100, 200):
        put(path, "cur", f"{number}.x:2,")
    settle(path)
    for _ in range(2):
        looked.clear()
        maildrop = MaildirLocation(path, cache).open()
        assert 1 <= len(looked) <= SPOT_CHECKS
        assert (len(maildrop.octets), maildrop.total, maildrop.uid(99)) == (100, 1400, "199.x")
        maildrop.close()
    (path / "cur" / "150.x:2,").rename(path / "cur" / "150.x:2,S")
    put(path, "new", "200.y")
    looked.clear()
    assert [uid for uid, _ in look(path)][50:101:50] == ["150.x", "200.y"]
    assert len(looked) == 101


def test_a_listing_that_others_may_write_is_not_believed(path: Path, looked: list[str]) -> None:
    for number in range(10):
        put(path, "cur", f"{number}.x:2,")
    settle(path)
    (path / NAME).chmod(0o666)
    looked.clear()
    look(path)
    assert len(looked) == 10


def test_a_file_that_was_written_to_is_found_by_who_asks_for_it_and_counted_anew_then(path: Path) -> None:
    for number in range(100, 200):
        put(path, "cur", f"{number}.x:2,")
    settle(path)
    put(path, "cur", "150.x:2,", b"grown and grown and grown\n")
    for _ in range(3):  # it may be among those that are looked at anyway
        maildrop = MaildirLocation(path).open()
        with contextlib.suppress(TemporaryError):
            content(maildrop, 51)
        maildrop.close()
    assert look(path)[50] == ("150.x", 27)


@pytest.mark.parametrize("damage", [b"", b"x", b"pop3d sizes 1\n00000000\n1 2 3 1.x\n"])
def test_damaged_sizes_are_counted_anew(path: Path, damage: bytes) -> None:
    put(path, "new", "1.x")
    look(path)
    (path / NAME).write_bytes(damage)
    assert look(path) == [("1.x", 14)]


def test_names_that_cannot_be_ids_are_hashed_and_ids_are_unique(path: Path) -> None:
    put(path, "cur", "1.x:2,")
    put(path, "cur", "1.x:2,S")
    put(path, "cur", "2 with spaces:2,")
    put(path, "cur", "3" * 100)
    uids = [uid for uid, _ in look(path)]
    assert len(set(uids)) == 4
    assert all(len(uid) <= 70 and " " not in uid for uid in uids)
    assert uids == [uid for uid, _ in look(path)]


@pytest.mark.parametrize("arrived", ["new/1.x,S=4", "new/1.x,S=4:2,", "cur/1.x,S=4:2,", "cur/1.x,S=4:2,FRST"])
def test_the_id_of_a_message_never_passes_to_another_whose_file_has_the_same_name(path: Path, arrived: str) -> None:
    put(path, "cur", "1.x,S=4:2,S", b"one\n")
    assert look(path) == [("1.x,S=4", 5)]
    put(path, *arrived.split("/"), b"another\n")
    uids = look(path)
    assert [octets for uid, octets in uids if uid == "1.x,S=4"] == [5]
    assert sorted(octets for _, octets in uids) == [5, 9]
    assert names(path, "new") == []
    assert look(path) == uids
    (path / "cur" / "1.x,S=4:2,S").unlink()
    assert look(path) == [each for each in uids if each[1] == 9]
    (path / NAME).unlink()
    assert look(path) == [each for each in uids if each[1] == 9]
    assert {name.partition(",")[2].partition(":")[0] for name in names(path, "cur")} == {"S=4"}


def test_a_file_that_is_just_getting_its_flags_by_a_second_name_keeps_its_name(path: Path) -> None:
    put(path, "cur", "1.x:2,")
    (path / "cur" / "1.x:2,S").hardlink_to(path / "cur" / "1.x:2,")
    look(path)
    assert names(path, "cur") == ["1.x:2,", "1.x:2,S"]


def test_a_name_with_no_room_for_flags_stays_without(path: Path) -> None:
    put(path, "new", "1." + "x" * 253)
    assert len(look(path)) == 1
    assert names(path, "cur") == ["1." + "x" * 253]


def test_commit_removes_what_was_marked_even_under_other_flags(path: Path) -> None:
    for number in (1, 2, 3):
        put(path, "new", f"{number}.x")
    maildrop = MaildirLocation(path).open()
    (path / "cur" / "1.x:2,").rename(path / "cur" / "1.x:2,RS")
    (path / "cur" / "3.x:2,").unlink()
    put(path, "new", "4.x")
    assert content(maildrop, 1) == b"a: b\r\n\r\ntext\r\n"
    maildrop.commit([1, 3])
    maildrop.close()
    assert [uid for uid, _ in look(path)] == ["2.x", "4.x"]
    assert names(path, "tmp") == []


@pytest.mark.parametrize("number", [1, 2])
def test_commit_removes_the_file_that_was_sent_and_no_other_of_nearly_its_name(path: Path, number: int) -> None:
    put(path, "cur", "1.x:2,", b"one\n")
    put(path, "cur", "1.x:2,S", b"two\n")
    maildrop = MaildirLocation(path).open()
    sent, kept = content(maildrop, number), content(maildrop, 3 - number)
    maildrop.commit([number])
    maildrop.close()
    maildrop = MaildirLocation(path).open()
    assert sent != kept
    assert [content(maildrop, each) for each in range(1, len(maildrop.octets) + 1)] == [kept]
    maildrop.close()


def test_a_file_of_nearly_the_same_name_that_came_in_the_session_is_not_taken_for_the_message(path: Path) -> None:
    put(path, "cur", "1.x:2,", b"one\n")
    put(path, "cur", "2.x:2,", b"two\n")
    maildrop = MaildirLocation(path).open()
    (path / "cur" / "2.x:2,").unlink()
    for number in (1, 2):
        put(path, "cur", f"{number}.x:2,S", b"another\n")
    with pytest.raises(TemporaryError):
        content(maildrop, 2)
    maildrop.commit([1, 2])
    maildrop.close()
    assert names(path, "cur") == ["1.x:2,S", "2.x:2,S"]


def test_a_commit_that_fails_removes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        put(path, "new", f"{number}.x")
    maildrop = MaildirLocation(path).open()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith("2") and self.parent.name == "cur":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        maildrop.commit([1, 2])
    maildrop.close()
    assert names(path, "cur") == ["1.x:2,", "2.x:2,"]


class TestFullDisk:
    """A directory may need another block for a name."""

    @pytest.fixture(autouse=True)
    def _full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rename = Path.rename

        def failing(self: Path, target: Path) -> Path:
            if self.name.startswith("3") and target.parent.name in ("cur", "tmp") and self.parent != target.parent:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", failing)

    def test_messages_are_removed_where_they_are(self, path: Path) -> None:
        for number in range(1, 6):
            put(path, "cur", f"{number}.x:2,")
        maildrop = MaildirLocation(path).open()
        assert maildrop.commit([1, 2, 3, 5]) == 0
        maildrop.close()
        assert (names(path, "cur"), names(path, "tmp")) == (["4.x:2,"], [])
        assert look(path) == [("4.x", 14)]

    def test_new_mail_for_whose_names_there_is_no_room_waits(
        self, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(1, 6):
            put(path, "new", f"{number}.x")
        assert set(look(path)) < {(f"{number}.x", 14) for number in range(1, 6)}
        assert "3.x" in names(path, "new")
        assert "left-in-new" in caplog.text
        monkeypatch.undo()
        assert look(path) == [(f"{number}.x", 14) for number in range(1, 6)]


def test_a_message_that_changed_or_went_is_not_sent(path: Path) -> None:
    put(path, "new", "1.x")
    put(path, "new", "2.x")
    maildrop = MaildirLocation(path).open()
    put(path, "cur", "1.x:2,", b"grown and grown and grown\n")
    (path / "cur" / "2.x:2,").unlink()
    for number in (1, 2):
        with pytest.raises(TemporaryError):
            content(maildrop, number)
    maildrop.close()


def test_one_session_at_a_time(path: Path) -> None:
    first = MaildirLocation(path).open()
    with pytest.raises(InUse):
        MaildirLocation(path).open()
    with pytest.raises(InUse):
        MaildirLocation(path).reset()
    first.close()


def test_reset_moves_all_back_to_new_and_forgets_the_sizes(path: Path) -> None:
    put(path, "new", "1.x")
    put(path, "cur", "2.x:2,S")
    look(path)
    MaildirLocation(path).reset()
    assert names(path, "new") == ["1.x", "2.x"]
    assert names(path, "cur") == []
    assert not (path / NAME).exists()


def test_a_reset_that_cannot_move_everything_keeps_the_sizes(path: Path) -> None:
    put(path, "cur", "1.x:2,S")
    look(path)
    put(path, "new", "1.x", b"another\n")
    with pytest.raises(TemporaryError):
        MaildirLocation(path).reset()
    assert (path / NAME).exists()
    assert (path / "new" / "1.x").read_bytes() == b"another\n"


def test_links_and_directories_are_no_messages(path: Path) -> None:
    (path / "cur" / "1.dir").mkdir()
    (path / "cur" / "2.link").symlink_to("/etc/passwd")
    os.mkfifo(path / "new" / "3.fifo")
    assert look(path) == []


def test_what_is_no_maildir_is_said(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="is no Maildir"):
        MaildirLocation(tmp_path / "none").open()


def test_messages_are_as_old_as_their_names_say(path: Path) -> None:
    for name in ("100.a.host", "200.b.host", "no-time"):
        put(path, "new", name)
    maildrop = MaildirLocation(path).open()
    assert [maildrop.uid(number - 1) for number in maildrop.older(150)] == ["100.a.host"]
    assert len(maildrop.older(201)) == 2
    maildrop.close()


def imported(uidl: str, text: str = "text") -> bytes:
    return f"Subject: x\nX-UIDL: {uidl}\n\n{text}\n".encode()


def uids(path: Path) -> list[str]:
    return [uid for uid, _ in look(path)]


def test_ids_of_another_server_are_kept(path: Path) -> None:
    put(path, "cur", "1.a.host:2,S", imported("0123456789.1"))
    put(path, "cur", "2.b.host:2,", imported("~x").replace(b"\n", b"\r\n"))
    put(path, "new", "3.c.host", b"Subject: x\n\nX-UIDL: body\n")
    expected = ["0123456789.1", "~x", "3.c.host"]
    assert uids(path) == expected
    assert uids(path) == expected
    (path / NAME).unlink()
    assert uids(path) == expected


@pytest.mark.parametrize("uidl", ["a b", "x" * 71, "-", "~" + "0" * 32, ""])
def test_what_cannot_be_an_id_is_not_kept(path: Path, uidl: str) -> None:
    put(path, "cur", "1.a.host:2,", imported(uidl))
    assert uids(path) == uids(path) == ["1.a.host"]


def test_nobody_can_send_a_message_with_the_id_of_another(path: Path) -> None:
    put(path, "cur", "1.a.host:2,", imported("theirs"))
    put(path, "cur", "2.b.host:2,", b"Subject: x\n\n")
    assert uids(path) == ["theirs", "2.b.host"]
    put(path, "new", "0.forged.host", imported("theirs"))
    put(path, "new", "3.forged.host", imported("2.b.host"))
    assert uids(path) == ["0.forged.host", "theirs", "2.b.host", "3.forged.host"]
    (path / "cur" / "1.a.host:2,").unlink()
    assert uids(path) == ["0.forged.host", "2.b.host", "3.forged.host"], "it does not move"
    put(path, "new", "4.again.host", imported("theirs"))
    assert uids(path)[-1] == "4.again.host", "and no id comes back"
