"""An mbox as a maildrop: sizes, ids through everything that may happen, the index, the lock, removal."""

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from services.pop3d.index_file import ATTRIBUTE
from services.pop3d.maildrop import InUse
from services.pop3d.mbox_maildrop import MboxLocation, MboxMaildrop
from stubmail.errors import PermanentError, TemporaryError
from stubmail.mbox import Delivery, Mbox, NoRoom
from stubmail.mbox.file import Scanner

FROM = b"From a@b.example Thu Jan  1 00:00:00 2026\n"
TWIN = b"Subject: twin\n\nthe same\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bob"


def write(path: Path, *contents: bytes) -> None:
    path.write_bytes(b"".join(FROM + content + b"\n" for content in contents))


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(FROM + content + b"\n")


def uids(path: Path) -> list[str]:
    maildrop = MboxLocation(path).open()
    try:
        return [maildrop.uid(index) for index in range(len(maildrop.octets))]
    finally:
        maildrop.close()


def remove(path: Path, *numbers: int) -> None:
    maildrop = MboxLocation(path).open()
    maildrop.commit(numbers)
    maildrop.close()


def content(maildrop: MboxMaildrop, number: int) -> bytes:
    return b"".join(maildrop.content(number))


def lose_index(path: Path) -> None:
    for sidecar in path.parent.iterdir():
        if sidecar != path:
            sidecar.unlink()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns how many times an mbox was read from its beginning since the last call."""
    scanners: list[int] = []
    feed = Scanner.feed

    def counting(self: Scanner, data: bytes) -> None:
        scanners.append(id(self))
        feed(self, data)

    monkeypatch.setattr(Scanner, "feed", counting)

    def count() -> int:
        number = len(set(scanners))
        scanners.clear()
        return number

    return count


def test_none_there_is_an_empty_maildrop(path: Path) -> None:
    assert uids(path) == []


@pytest.mark.parametrize(
    ("stored", "wire"),
    [
        (b"a: b\n\ntext\n", b"a: b\r\n\r\ntext\r\n"),
        (b"a: b\r\n\r\n>From x\r\n", b"a: b\r\n\r\nFrom x\r\n"),
        (b"a\r\nb\nc\rd\n", b"a\r\nb\r\nc\r\nd\r\n"),
        (b"\x00\xff" + b"x" * 100_000 + b"\n", b"\x00\xff" + b"x" * 100_000 + b"\r\n"),
        (b"no end", b"no end\r\n"),
        (b"", b""),
    ],
)
def test_sizes_are_exactly_what_is_sent(path: Path, stored: bytes, wire: bytes) -> None:
    path.write_bytes(FROM + stored)
    maildrop = MboxLocation(path).open()
    assert content(maildrop, 1) == wire
    assert list(maildrop.octets) == [len(wire)]
    maildrop.close()


def test_ids_last_through_deliveries_deletions_restarts_and_the_loss_of_the_index(path: Path) -> None:
    write(path, b"one\n", TWIN, b"two\n", TWIN)
    first = uids(path)
    assert len(set(first)) == 4
    assert all(0x21 <= ord(character) <= 0x7E for uid in first for character in uid)
    assert all(1 <= len(uid) <= 70 for uid in first)
    append(path, b"three\n")
    assert uids(path)[:4] == first
    lose_index(path)
    assert uids(path)[:4] == first
    remove(path, 1, 3)
    assert uids(path)[:2] == [first[1], first[3]]
    lose_index(path)
    assert uids(path)[:2] == [first[1], first[3]]


MAIL = b"Subject: x\nX-Label: y\n\ntext\nStatus: of the body\n"
PROGRAMS = {
    "mutt": (b"", b"Status: RO\nContent-Length: 24\nLines: 2\n"),
    "mailx": (b"Status: O\n", b""),
    "alpine": (b"X-IMAPbase: 1767225600 2\n", b"Status: RO\nX-Status: A\nX-Keywords: a\n b\nX-UID: 1\n"),
    "Dovecot": (b"", b"X-UID: 1\nX-Keywords:       \nContent-Length: 24\nStatus: R\n"),
    "Mozilla": (b"X-Mozilla-Status: 0001\nX-Mozilla-Status2: 00000000\nX-Mozilla-Keys:   \n", b""),
    "in other letters": (b"STATUS : R\n", b"content-length:24\n"),
}


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("notes", PROGRAMS.values(), ids=PROGRAMS)
def test_ids_stay_when_another_program_keeps_its_notes_in_the_header(
    path: Path, notes: tuple[bytes, bytes], line_end: bytes
) -> None:
    """RFC 1939 §7: a unique-id persists across sessions."""
    write(path, MAIL.replace(b"\n", line_end), b"Subject: other\n\ntext\n")
    before = uids(path)
    header, _, body = MAIL.partition(b"\n\n")
    noted = notes[0] + header + b"\n" + notes[1] + b"\n" + body
    write(path, noted.replace(b"\n", line_end), b"Subject: other\nStatus: O\n\ntext\n")
    assert uids(path) == before
    lose_index(path)
    assert uids(path) == before


@pytest.mark.parametrize(
    "other",
    [
        MAIL.replace(b"of the body", b"of another body"),
        MAIL.replace(b"X-Label", b"X-Libel"),
        MAIL.replace(b"X-Label: y", b"X-Label: y\n Status: folded"),
        MAIL.replace(b"\n\n", b"\nX-Statuses: R\n\n"),
        MAIL.replace(b"\n\n", b"\n\nStatus: R\n\n"),
        b"\n" + MAIL,
    ],
)
def test_what_is_no_such_note_makes_another_id(path: Path, other: bytes) -> None:
    write(path, MAIL, other)
    first, second = uids(path)
    assert first.partition(".")[0] != second.partition(".")[0]


def test_messages_that_differ_in_notes_alone_are_twins(path: Path) -> None:
    read = b"Status: RO\n" + MAIL
    write(path, MAIL, read, read)
    ids = uids(path)
    assert len(set(ids)) == 3
    remove(path, 1)
    append(path, MAIL)
    assert uids(path)[:2] == ids[1:]
    assert uids(path)[2] not in ids


def test_a_twin_keeps_its_id_when_the_other_goes_and_the_index_is_lost(path: Path) -> None:
    write(path, TWIN, TWIN)
    first, second = uids(path)
    remove(path, 1)
    assert uids(path) == [second]
    lose_index(path)
    expected = [second] if attributes_work(path) else [first]
    assert uids(path) == expected


def attributes_work(path: Path) -> bool:
    try:
        return bool(os.getxattr(path, ATTRIBUTE))
    except OSError:
        return False


def test_an_id_does_not_come_back_with_the_same_octets(path: Path) -> None:
    write(path, TWIN, b"other\n")
    first, other = uids(path)
    remove(path, 1)
    append(path, TWIN)
    assert uids(path)[0] == other
    assert uids(path)[1] not in (first, other)


def test_a_login_reads_the_mbox_only_when_it_has_changed(path: Path, reads: Callable[[], int]) -> None:
    write(path, b"one\n", TWIN, TWIN)
    uids(path)
    assert reads() == 1
    uids(path)
    assert reads() == 0
    append(path, b"two\n")
    uids(path)
    assert reads() == 1
    remove(path, 2)
    reads()
    assert len(uids(path)) == 3
    assert reads() == 0


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_index_is_made_anew(path: Path, damage: bytes | None) -> None:
    write(path, b"one\n", b"two\n")
    before = uids(path)
    index = Path(f"{path}.stub-index")
    data = bytearray(index.read_bytes())
    data[-1] ^= 1
    index.write_bytes(data if damage is None else damage)
    assert uids(path) == before


def test_an_index_that_others_may_write_is_not_believed(path: Path, reads: Callable[[], int]) -> None:
    write(path, b"one\n")
    uids(path)
    reads()
    Path(f"{path}.stub-index").chmod(0o666)
    uids(path)
    assert reads() == 1


def test_a_rewrite_that_leaves_size_and_time_as_they_were_is_noticed(path: Path) -> None:
    write(path, b"one\n", b"two\n")
    before = uids(path)
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"two", b"owt"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert uids(path)[0] == before[0]
    assert uids(path)[1] != before[1]


def test_one_session_at_a_time(path: Path) -> None:
    write(path, b"one\n")
    first = MboxLocation(path).open()
    with pytest.raises(InUse):
        MboxLocation(path).open()
    first.close()
    MboxLocation(path).open().close()


def test_a_failing_open_lets_go_of_the_lock(path: Path) -> None:
    path.write_bytes(b"no mbox\n")
    for _ in range(2):
        with pytest.raises(PermanentError, match="does not begin with a From line"):
            MboxLocation(path).open()


def test_mail_that_comes_during_a_session_is_seen_by_the_next(path: Path) -> None:
    write(path, b"one\n", b"two\n")
    maildrop = MboxLocation(path).open()
    Mbox(path).deliver([Delivery("id", "a@b.example", 0.0, b"three\r\n")])
    assert len(maildrop.octets) == 2
    assert content(maildrop, 2) == b"two\r\n"
    maildrop.commit([1])
    maildrop.close()
    again = MboxLocation(path).open()
    assert [content(again, number) for number in (1, 2)] == [b"two\r\n", b"three\r\n"]
    again.close()


def test_what_another_program_has_changed_stays_and_is_told(path: Path) -> None:
    write(path, b"one\n", b"two\n")
    maildrop = MboxLocation(path).open()
    write(path, b"Status: RO\n\none\n", b"two\n")
    assert maildrop.commit([1, 2]) == 1
    maildrop.close()
    again = MboxLocation(path).open()
    assert content(again, 1) == b"Status: RO\r\n\r\none\r\n"
    again.close()


def test_removal_keeps_the_file_its_inode_and_its_mode(path: Path) -> None:
    write(path, b"one\n", b"two\n", b"three\n")
    path.chmod(0o640)
    before = path.stat()
    remove(path, 2)
    after = path.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert path.read_bytes() == FROM + b"one\n\n" + FROM + b"three\n\n"


@pytest.mark.parametrize(
    "change", [lambda path: os.truncate(path, 60), lambda path: path.unlink(), lambda path: write(path, b"new\n")]
)
def test_a_message_that_is_not_there_any_more_is_not_sent(path: Path, change: Callable[[Path], None]) -> None:
    write(path, b"one\n", b"two\n")
    maildrop = MboxLocation(path).open()
    change(path)
    with pytest.raises(TemporaryError):
        content(maildrop, 2)
    maildrop.close()


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="is not a directory"):
        MboxLocation(tmp_path / "none" / "bob").check()
    MboxLocation(tmp_path / "bob").check()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("none"), "not a regular file"),
        (lambda path: path.write_bytes(b"no mbox\n"), "does not begin with a From line"),
    ],
)
def test_what_is_no_mbox_is_said_before_and_when_it_is_to_be_served(
    path: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(path)
    for use in (MboxLocation(path).check, MboxLocation(path).open):
        with pytest.raises(PermanentError, match=reason):
            use()


def test_messages_are_as_old_as_their_from_lines_say(path: Path) -> None:
    with contextlib.closing(MboxLocation(path).open()) as maildrop:
        assert maildrop.older(1e12) == []
    dates = (b"a Thu Jan  1 00:00:00 2026", b"a", b"a Sat Jan  3 00:00:00 2026")
    path.write_bytes(b"".join(b"From " + date + b"\nSubject: x\n\ntext\n\n" for date in dates))
    with contextlib.closing(MboxLocation(path).open()) as maildrop:
        assert maildrop.older(1_767_312_000) == [1]  # 2026-01-02
        assert maildrop.older(1_767_999_999) == [1, 3]


def imported(uidl: str, text: str = "text") -> bytes:
    return f"Subject: x\nX-UIDL: {uidl}\n\n{text}\n".encode()


def test_ids_of_another_server_are_kept(path: Path) -> None:
    """A mailbox that was moved here: clients do not fetch all of it again."""
    write(
        path,
        imported("0123456789.1"),
        b'Subject: x\r\nX-UIDL:\t~a"b  \r\n\r\ntext\n',
        b"X-UIDL: " + b"x" * 70 + b"\n\n",
    )
    expected = ["0123456789.1", '~a"b', "x" * 70]
    assert uids(path) == expected
    assert uids(path) == expected
    lose_index(path)
    assert uids(path) == expected
    remove(path, 1)
    assert uids(path) == expected[1:]
    lose_index(path)
    assert uids(path) == expected[1:]


@pytest.mark.parametrize(
    "content",
    [
        imported("a b"),
        imported(""),
        imported("x" * 71),
        imported("caf\u00e9"),
        imported("0" * 32),
        imported("0123456789abcdef" * 2 + ".2"),
        b"Subject: x\n\nX-UIDL: body\n",
        b"Subject: x\r\n\r\nX-UIDL: body\n",
        b"\nX-UIDL: body\n",
        b"Subject: x\n X-UIDL: folded\n\n",
    ],
)
def test_what_cannot_be_an_id_is_not_kept(path: Path, content: bytes) -> None:
    write(path, content)
    (uid,) = uids(path)
    assert re.fullmatch("[0-9a-f]{32}", uid)


def test_nobody_can_send_a_message_with_the_id_of_another(path: Path) -> None:
    write(path, imported("theirs"))
    append(path, imported("theirs", "forged"))
    first, second = uids(path)
    assert first == "theirs"
    assert second != first
    remove(path, 1)
    assert uids(path) == [second], "it does not move up"
    append(path, imported("theirs", "again"))
    assert first not in uids(path), "and no id comes back"
    assert len(set(uids(path))) == 2


class TestFullDisk:
    """No journal can be written."""

    @pytest.fixture(autouse=True)
    def _full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_fd: int, _offset: int, _size: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)

    def test_an_index_whose_room_did_not_help_comes_back(self, path: Path, reads: Callable[[], int]) -> None:
        write(path, b"one\n", TWIN, TWIN)
        known = uids(path)
        with contextlib.closing(MboxLocation(path).open()) as maildrop, pytest.raises(NoRoom):
            maildrop.commit([1])
        reads()
        assert uids(path) == known
        assert reads() == 0

    def test_ids_outlive_a_removal_at_the_end(self, path: Path) -> None:
        write(path, b"one\n", TWIN, TWIN)
        known = uids(path)
        remove(path, 3)
        append(path, TWIN)
        assert uids(path)[:2] == known[:2]
        assert uids(path)[2] not in known
