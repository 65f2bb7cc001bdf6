"""Delivery, reading and removal in a mailbox file that others write to as well."""

import contextlib
import errno
import io
import os
import re
import resource
import stat
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.mbox import Delivery, Extent, Mbox, MboxError, NoRoom, NotMbox, Snapshot, rewrite, rewrite_journal
from stubmail.mbox.snapshot import REGION, settled
from tests.support.waiting import wait_until

FROM = b"From carol@c.example Thu Jan  1 00:00:00 1970\n"
ONE = FROM + b"Subject: 1\n\none\n\n"
TWO = FROM + b"Subject: 2\n\ntwo\n\n"
WORDS = [b"From ", b">", b"\n", b"\r\n", b"\r", b"\n\nFrom x\n", b"text", b"\0"]
contents = st.lists(st.sampled_from(WORDS), max_size=12).map(b"".join)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bob"


@pytest.fixture
def mbox(path: Path) -> Mbox:
    return Mbox(path, lock_timeout=0)


def delivery(name: str, content: bytes = b"Subject: new\r\n\r\nnew\r\n") -> Delivery:
    return Delivery(name, "alice@a.example", 0, content)


def read(snapshot: Snapshot) -> list[bytes]:
    return [b"".join(snapshot.chunks(number)) for number in range(len(snapshot))]


def snapshot_of(mbox: Mbox, old: bool) -> Snapshot:
    """As it is with a file whose last change was long ago, or just now; in the first case, time has moved on."""
    snapshot = mbox.snapshot()
    if old:
        probe = mbox.path.with_name("probe")
        wait_until(lambda: probe.write_bytes(b"") == 0 and probe.stat().st_mtime_ns > mbox.path.stat().st_ctime_ns)
        probe.unlink()
    return Snapshot(mbox.path, snapshot.index, snapshot.seen, settled=old)


def wire(content: bytes) -> bytes:
    """What a delivered message reads back as: CRLF behind every line, the last too."""
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    return text if not text or text.endswith(b"\r\n") else text + b"\r\n"


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


class Record:
    """A puller's memory of the ids."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, ids: Sequence[str]) -> None:
        self.calls.append(list(ids))


class Full(Record):
    """One that cannot be written to."""

    def __call__(self, ids: Sequence[str]) -> None:
        super().__call__(ids)
        raise RuntimeError("no")


def fill_the_disk(patch: pytest.MonkeyPatch) -> None:
    """Let no file grow."""
    write = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset + len(data) > os.fstat(fd).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data, offset)

    def none_to_reserve(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "pwrite", full)
    patch.setattr(os, "posix_fallocate", none_to_reserve)


class TestDelivery:
    @given(st.lists(st.lists(contents, max_size=3), max_size=3), st.sampled_from([b"", ONE, ONE[:-1], ONE[:-2], b"\n"]))
    def test_every_message_reads_back(self, batches: list[list[bytes]], before: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="sm") as directory:
            mbox = Mbox(Path(directory) / "bob", lock_timeout=0)
            mbox.path.write_bytes(before)
            for number, batch in enumerate(batches):
                mbox.deliver([delivery(f"{number}.{i}", content) for i, content in enumerate(batch)])
            snapshot = mbox.snapshot()
            old = [b"Subject: 1\r\n\r\none\r\n"] if before.startswith(b"From ") else []
            assert read(snapshot) == [*old, *(wire(content) for batch in batches for content in batch)]
            assert [snapshot.octets(i) for i in range(len(snapshot))] == [len(message) for message in read(snapshot)]
            assert mbox.path.read_bytes().startswith(before)

    def test_ids_are_committed_once_the_messages_can_be_read(self, mbox: Mbox, path: Path) -> None:
        def committed(ids: Sequence[str]) -> None:
            assert list(ids) == ["a", "b"]
            assert path.read_bytes().count(b"\nSubject: new\n") == 2

        mbox.deliver([delivery("a"), delivery("b")], committed)
        assert names(path) == {"bob"}

    def test_an_id_that_comes_twice_in_a_batch_is_delivered_once(self, mbox: Mbox) -> None:
        record = Record()
        mbox.deliver([delivery("a"), delivery("a")], record)
        assert record.calls == [["a"]]
        assert len(mbox.snapshot()) == 1

    def test_an_empty_batch_touches_nothing(self, mbox: Mbox, path: Path) -> None:
        mbox.deliver([])
        assert not path.exists()

    def test_content_may_come_from_files(self, mbox: Mbox, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"from a path\r\n")
        mbox.deliver([Delivery("a", "", 0, source), Delivery("b", "", 0, io.BytesIO(b"from a file\r\n"))])
        assert read(mbox.snapshot()) == [b"from a path\r\n", b"from a file\r\n"]

    def test_content_that_cannot_be_read_delivers_nothing(self, mbox: Mbox, path: Path, tmp_path: Path) -> None:
        with pytest.raises(MboxError, match="absent"):
            mbox.deliver([delivery("a"), Delivery("b", "", 0, tmp_path / "absent")])
        assert path.read_bytes() == b""
        assert names(path) == {"bob"}

    def test_mode_and_inode_stay(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE)
        path.chmod(0o640)
        before = path.stat()
        mbox.deliver([delivery("a")])
        assert (path.stat().st_mode, path.stat().st_ino) == (before.st_mode, before.st_ino)

    def test_a_new_mailbox_is_for_its_owner_alone(self, mbox: Mbox, path: Path) -> None:
        mbox.deliver([delivery("a")])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.parametrize("content", [b"not an mbox\n", b"\0" * 10, b">From x\n"])
    def test_what_is_no_mbox_is_left_alone(self, mbox: Mbox, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        for attempt in (lambda: mbox.deliver([delivery("a")]), mbox.snapshot):
            with pytest.raises(NotMbox, match="does not begin with a From line"):
                attempt()
        assert path.read_bytes() == content
        assert names(path) == {"bob"}

    def test_a_hostile_sender_makes_no_second_line(self, mbox: Mbox) -> None:
        mbox.deliver([Delivery("a", "x\n\nFrom y", 0, b"text\r\n")])
        snapshot = mbox.snapshot()
        assert read(snapshot) == [b"text\r\n"]
        assert snapshot.from_line(0) == b"From x-From-y Thu Jan  1 00:00:00 1970"

    @pytest.fixture
    def small_disk(self) -> Iterator[None]:
        """No file may grow beyond 64 kB: writes go as far as that and then fail."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    @pytest.mark.usefixtures("small_disk")
    @pytest.mark.parametrize("used", [30000, 65000])
    def test_a_disk_that_fills_up_takes_nothing(self, mbox: Mbox, path: Path, used: int) -> None:
        path.write_bytes(FROM + b"x" * used)
        before = path.read_bytes()
        record = Record()
        with pytest.raises(MboxError) as caught:
            mbox.deliver([delivery("a"), delivery("b", b"y" * 40000)], record)
        assert caught.value.code == "4.3.1"
        assert (path.read_bytes(), names(path), record.calls) == (before, {"bob"}, [])

    def test_memory_does_not_grow_with_the_message(self, mbox: Mbox, tmp_path: Path) -> None:
        source = tmp_path / "large"
        with source.open("wb") as file:
            for _ in range(32):
                file.write(b"0123456789abcde\n" * 65536)
        tracemalloc.start()
        try:
            mbox.deliver([Delivery("a", "", 0, source)])
            snapshot = mbox.snapshot()
            assert sum(map(len, snapshot.chunks(0))) == snapshot.octets(0) == 32 * 17 * 65536
            mbox.deliver([delivery("b")])
            mbox.remove(mbox.snapshot(), [1])
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()


class TestRecovery:
    def test_ids_that_could_not_be_recorded_are_reported_again(self, mbox: Mbox) -> None:
        with pytest.raises(RuntimeError):
            mbox.deliver([delivery("a")], Full())
        assert len(mbox.snapshot()) == 1
        with pytest.raises(RuntimeError):
            mbox.recover(Full())
        record = Record()
        mbox.recover(record)
        mbox.recover(record)
        assert record.calls == [["a"]]

    def test_the_next_delivery_leaves_them_out(self, mbox: Mbox) -> None:
        with pytest.raises(RuntimeError):
            mbox.deliver([delivery("a")], Full())
        record = Record()
        mbox.deliver([delivery("a"), delivery("b")], record)
        mbox.deliver([delivery("c")], record)
        assert record.calls == [["a"], ["b"], ["c"]]
        assert len(mbox.snapshot()) == 3

    def test_each_owner_hears_of_its_own(self, path: Path) -> None:
        puller, gateway = Mbox(path, owner="puller"), Mbox(path, owner="gateway")
        for box, name in ((puller, "a"), (gateway, "b")):
            with pytest.raises(RuntimeError):
                box.deliver([delivery(name)], Full())
        for box, name in ((gateway, "b"), (puller, "a")):
            record = Record()
            with pytest.raises(RuntimeError):
                box.recover(Full())
            box.recover(record)
            assert record.calls == [[name]]
        assert names(path) == {"bob"}

    def test_they_are_remembered_when_the_mailbox_has_been_emptied_and_removed(self, mbox: Mbox, path: Path) -> None:
        with pytest.raises(RuntimeError):
            mbox.deliver([delivery("a")], Full())
        mbox.snapshot()
        path.unlink()
        record = Record()
        mbox.recover(record)
        assert record.calls == [["a"]]

    def test_a_full_disk_keeps_nobody_out_meanwhile(
        self, mbox: Mbox, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The caller's record is on that disk, too."""
        with pytest.raises(RuntimeError):
            mbox.deliver([delivery("a"), delivery("b")], Full())
        with monkeypatch.context() as patch:
            fill_the_disk(patch)
            assert mbox.remove(mbox.snapshot(), [1]).removed == 1
            with pytest.raises(RuntimeError):
                mbox.recover(Full())
            with pytest.raises(RuntimeError):
                mbox.deliver([delivery("b"), delivery("c")], Full())
        record = Record()
        mbox.deliver([delivery("b"), delivery("c")], record)
        assert record.calls == [["a", "b"], ["c"]]
        assert len(mbox.snapshot()) == 2
        assert names(path) == {"bob"}

    def test_nothing_to_recover_creates_nothing(self, mbox: Mbox, path: Path) -> None:
        mbox.recover(Full())
        assert names(path) == set()

    def test_a_mailbox_that_others_rewrote_is_not_cut(self, mbox: Mbox, path: Path) -> None:
        """Where the batch lay cannot be known any more: it comes a second time rather than never."""
        path.write_bytes(ONE)
        with pytest.raises(RuntimeError):
            mbox.deliver([delivery("a")], Full())
        path.write_bytes(TWO + path.read_bytes())
        record = Record()
        mbox.recover(record)
        assert record.calls == []
        assert len(mbox.snapshot()) == 3
        assert names(path) == {"bob"}

    @pytest.mark.parametrize("suffix", ["stub-append", "stub-rewrite", "stub-appended-http2mbox"])
    def test_a_journal_of_somebody_else_is_not_obeyed(self, mbox: Mbox, path: Path, suffix: str) -> None:
        path.write_bytes(ONE)
        journal = Path(f"{path}.{suffix}")
        other = path.parent / "other"
        other.write_bytes(b"")
        journal.symlink_to(other)
        with pytest.raises(MboxError):
            mbox.recover(Record())
        journal.unlink()
        journal.write_bytes(b"")
        journal.chmod(0o666)
        with pytest.raises(MboxError, match="not made by the mailbox's owner"):
            mbox.recover(Record())
        assert path.read_bytes() == ONE

    @pytest.mark.parametrize("suffix", ["stub-append", "stub-rewrite"])
    @given(junk=st.binary(max_size=200))
    def test_a_journal_that_was_never_whole_is_dropped(self, suffix: str, junk: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="sm") as directory:
            path = Path(directory) / "bob"
            path.write_bytes(ONE)
            journal = Path(f"{path}.{suffix}")
            journal.write_bytes(junk)
            journal.chmod(0o600)
            assert len(Mbox(path).snapshot()) == 1
            assert names(path) == {"bob"}


class TestSnapshot:
    def test_a_missing_mailbox_is_empty_and_stays_missing(self, mbox: Mbox, path: Path) -> None:
        snapshot = mbox.snapshot()
        assert (len(snapshot), snapshot.size, names(path)) == (0, 0, set())

    def test_what_it_knows(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE + ONE + TWO[:-1])
        snapshot = mbox.snapshot()
        assert snapshot.size == path.stat().st_size
        body, length = len(FROM), len(ONE)
        assert snapshot.extents == [
            Extent(start, start + body, start + length - 1) for start in (0, length, 2 * length)
        ]
        assert snapshot.digest(0) == snapshot.digest(1) != snapshot.digest(2)
        assert snapshot.from_line(2) == FROM.rstrip()

    @pytest.mark.parametrize("number", [-1, 1])
    def test_a_number_that_is_not_there(self, mbox: Mbox, path: Path, number: int) -> None:
        path.write_bytes(ONE)
        snapshot = mbox.snapshot()
        for look in (snapshot.extent, snapshot.octets, snapshot.digest, snapshot.from_line):
            with pytest.raises(IndexError):
                look(number)
        with pytest.raises(IndexError):
            list(snapshot.chunks(number))
        with pytest.raises(IndexError):
            mbox.remove(snapshot, [0, number])
        assert path.read_bytes() == ONE

    @pytest.mark.parametrize("old", [True, False], ids=["settled", "young"])
    @pytest.mark.parametrize("last", [b"Subject: 3\n\n", b"", b"no end", b"\r\n", b">From c\n", b"a\rb\n"])
    def test_neighbours_are_what_chunks_makes_of_each(self, mbox: Mbox, path: Path, old: bool, last: bytes) -> None:
        path.write_bytes(b"\n" + ONE + b"\n" + TWO + FROM + b"\n" + TWO + FROM + last)
        snapshot = snapshot_of(mbox, old)
        assert snapshot.settled is old
        whole = read(snapshot)
        for first in range(5):
            for count in range(1, 7):
                assert snapshot.several(first, count) == whole[first : first + count]

    def test_neighbours_are_read_as_far_as_there_is_room(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE + b"From " + b"x" * REGION + b"\n\n" + TWO * 3)
        snapshot = snapshot_of(mbox, old=True)
        assert snapshot.several(0, 5) == [b"Subject: 1\r\n\r\none\r\n"]
        assert snapshot.several(1, 4) == []
        assert len(snapshot.several(2, 4)) == 3

    @pytest.mark.parametrize("old", [True, False], ids=["settled", "young"])
    def test_a_delivery_leaves_the_neighbours_what_they_were(self, mbox: Mbox, path: Path, old: bool) -> None:
        path.write_bytes(ONE + TWO)
        snapshot = snapshot_of(mbox, old)
        mbox.deliver([delivery("a")])
        assert snapshot.several(0, 9) == read(snapshot)
        path.write_bytes(path.read_bytes().replace(b"two", b"TWO"))
        assert snapshot.several(0, 9) == [b"Subject: 1\r\n\r\none\r\n"]

    @pytest.mark.parametrize("size", [1, 7, 65536])
    def test_chunks_are_bounded(self, mbox: Mbox, path: Path, size: int) -> None:
        path.write_bytes(FROM + b">From me\r\nand\ryou\n\n" * 50)
        chunks = list(mbox.snapshot().chunks(0, size))
        assert b"".join(chunks) == b"From me\r\nand\r\nyou\r\n\r\n" * 49 + b"From me\r\nand\r\nyou\r\n"
        assert all(0 < len(chunk) <= 2 * size + 8 for chunk in chunks)

    def test_mail_that_comes_later_does_not_disturb(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE[:-2])
        snapshot = mbox.snapshot()
        mbox.deliver([delivery("a")])
        assert read(snapshot) == [b"Subject: 1\r\n\r\none\r\n"]
        assert snapshot.from_line(0) == FROM.rstrip()

    def test_when_a_change_may_have_left_no_trace(self, mbox: Mbox, path: Path) -> None:
        assert not settled((1, 2, 3, 4 * 10**9), 3.9)
        fine, coarse = 5 * 10**9 + 1, 5 * 10**9
        assert [settled((1, 2, fine - 7, fine), now) for now in (5.0, 5.09, 5.11)] == [False, False, True]
        assert [settled((1, 2, coarse, fine), now) for now in (7.9, 8.1)] == [False, True]
        path.write_bytes(ONE)
        assert wait_until(lambda: mbox.snapshot().settled)

    @pytest.mark.parametrize("old", [True, False], ids=["settled", "young"])
    @pytest.mark.parametrize(
        "change",
        [
            lambda path: path.unlink(),
            lambda path: os.truncate(path, len(ONE)),
            lambda path: path.write_bytes(path.read_bytes().replace(b"two", b"TWO")),
            lambda path: path.write_bytes(TWO + ONE),
            lambda path: (path.rename(f"{path}.old"), path.write_bytes(ONE + TWO)),
        ],
        ids=["gone", "shrunk", "written over", "sorted", "replaced"],
    )
    def test_a_message_that_changed_is_never_passed_off(
        self, mbox: Mbox, path: Path, change: object, old: bool
    ) -> None:
        path.write_bytes(ONE + TWO)
        snapshot = snapshot_of(mbox, old)
        assert callable(change)
        change(path)
        sent: list[bytes] = []
        with pytest.raises(MboxError):
            sent.extend(snapshot.chunks(1, 4))
        with contextlib.suppress(MboxError):
            sent.extend(snapshot.several(1, 1))
        assert sent == []
        with pytest.raises(MboxError):
            snapshot.from_line(1)

    @pytest.mark.parametrize("old", [True, False], ids=["settled", "young"])
    def test_a_message_that_changes_while_it_is_sent_is_not_ended(self, mbox: Mbox, path: Path, old: bool) -> None:
        path.write_bytes(ONE + FROM + b"first\n" * 10 + b"last\n\n")
        snapshot = snapshot_of(mbox, old)
        chunks = snapshot.chunks(1, 10)
        sent = next(chunks)
        path.write_bytes(path.read_bytes().replace(b"last", b"LAST"))
        with pytest.raises(MboxError):
            for chunk in chunks:
                sent += chunk
        assert not sent.endswith(b"LAST\r\n")

    @pytest.mark.parametrize("old", [True, False], ids=["settled", "young"])
    def test_mail_that_comes_while_a_message_is_sent_does_not_disturb(self, mbox: Mbox, path: Path, old: bool) -> None:
        path.write_bytes(ONE + FROM + b"first\n" * 10 + b"last\n\n")
        chunks = snapshot_of(mbox, old).chunks(1, 10)
        sent = next(chunks)
        mbox.deliver([delivery("a")])
        assert sent + b"".join(chunks) == b"first\r\n" * 10 + b"last\r\n"


class TestRemoval:
    @given(st.lists(st.sampled_from([b"a\r\n", b"b\r\n", b"", b"\r\n"]), max_size=6), st.data())
    def test_the_others_stay_octet_for_octet(self, messages: list[bytes], draw: st.DataObject) -> None:
        numbers = draw.draw(st.sets(st.integers(0, len(messages) - 1))) if messages else set()
        cut = draw.draw(st.integers(0, 2))
        with tempfile.TemporaryDirectory(prefix="sm") as directory:
            mbox = Mbox(Path(directory) / "bob", lock_timeout=0)
            mbox.deliver([delivery(str(number), content) for number, content in enumerate(messages)])
            if messages and messages[-1].endswith(b"a\r\n"):
                os.truncate(mbox.path, mbox.path.stat().st_size - cut)
            snapshot = mbox.snapshot()
            mbox.deliver([delivery("late")])
            assert mbox.remove(snapshot, numbers).removed == len(numbers)
            left = [message for number, message in enumerate(messages) if number not in numbers]
            assert read(mbox.snapshot()) == [*left, b"Subject: new\r\n\r\nnew\r\n"]
            assert names(mbox.path) == {"bob"}

    def test_inode_and_mode_stay(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE + TWO)
        path.chmod(0o640)
        before = path.stat()
        mbox.remove(mbox.snapshot(), [0])
        assert (path.stat().st_mode, path.stat().st_ino) == (before.st_mode, before.st_ino)
        assert path.read_bytes() == TWO

    def test_nothing_to_remove_takes_no_lock(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE)
        snapshot = mbox.snapshot()
        Path(f"{path}.lock").write_text("0")
        assert mbox.remove(snapshot, []).removed == 0

    def test_a_deliverer_with_the_file_open_loses_nothing(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE + TWO)
        with path.open("ab") as legacy:
            mbox.remove(mbox.snapshot(), [0])
            legacy.write(ONE)
        assert path.read_bytes() == TWO + ONE

    def test_what_others_removed_is_passed_over(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE + TWO + FROM + b"three\n\n")
        snapshot = mbox.snapshot()
        path.write_bytes(TWO + FROM + b"three\n\n" + FROM + b"late\n\n")
        assert mbox.remove(snapshot, [0, 2]) == (1, 0)
        assert path.read_bytes() == TWO + FROM + b"late\n\n"

    def test_a_mailbox_that_others_removed_or_replaced(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE + TWO)
        snapshot = mbox.snapshot()
        path.rename(f"{path}.old")
        assert mbox.remove(snapshot, [0]).removed == 0
        path.write_bytes(TWO + ONE)
        assert mbox.remove(snapshot, [0]).removed == 1
        assert path.read_bytes() == TWO

    def test_what_others_changed_stays(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE + TWO)
        snapshot = mbox.snapshot()
        changed = ONE.replace(b"\n\none", b"\nStatus: RO\n\none")
        path.write_bytes(changed + TWO)
        assert mbox.remove(snapshot, [0, 1]) == (1, 1)
        assert path.read_bytes() == changed
        assert mbox.remove(snapshot, [0, 1]) == (0, 1)

    def test_the_only_message_is_changed(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE)
        snapshot = mbox.snapshot()
        path.write_bytes(ONE.replace(b"\n\none", b"\nStatus: RO\n\none") + TWO)
        assert mbox.remove(snapshot, [0]) == (0, 1)

    def test_what_is_no_mbox_any_more_is_left_alone(self, mbox: Mbox, path: Path) -> None:
        path.write_bytes(ONE)
        snapshot = mbox.snapshot()
        path.write_bytes(b"?" + ONE)
        with pytest.raises(NotMbox):
            mbox.remove(snapshot, [0])
        assert path.read_bytes() == b"?" + ONE

    @pytest.mark.parametrize(
        ("wanted", "gone", "expected"),
        [
            ([0], [], "bcd"),
            ([1], [], "acd"),
            ([2], [], "abd"),
            ([0], [0], "bcd"),  # another removed one of the twins: it may have been the one
            ([1], [0], "bcd"),
            ([0, 1], [0], "cd"),
            ([0, 1, 3], [1], "c"),
            ([3], [0], "bc"),
        ],
    )
    def test_of_identical_twins_never_more_go_than_asked(
        self, mbox: Mbox, path: Path, wanted: list[int], gone: list[int], expected: str
    ) -> None:
        """a and b are twins, told apart here by their From_ lines alone."""
        stored = {
            name: b"From %s x\n" % name.encode() + text
            for name, text in zip("abcd", [b"twin\n\n"] * 2 + [b"c\n\n", b"d\n\n"], strict=True)
        }
        path.write_bytes(b"".join(stored.values()))
        snapshot = mbox.snapshot()
        path.write_bytes(b"".join(text for number, text in enumerate(stored.values()) if number not in gone))
        mbox.remove(snapshot, wanted)
        assert path.read_bytes() == b"".join(stored[name] for name in expected)

    def test_all_that_the_journal_needs_of_the_disk_is_taken_before_the_mailbox_is_touched(
        self, mbox: Mbox, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(ONE + b"".join(FROM + b"text %d\n\n" % number for number in range(100)))
        expected = path.read_bytes().removeprefix(ONE)
        monkeypatch.setattr(rewrite, "WINDOW", 300)
        journal = Path(f"{path}.stub-rewrite")
        inode = path.stat().st_ino
        sizes = set()
        write = os.pwrite

        def watch(fd: int, data: bytes, offset: int) -> int:
            if os.fstat(fd).st_ino == inode:
                sizes.add(journal.stat().st_size)
            return write(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", watch)
        assert mbox.remove(mbox.snapshot(), [0]).removed == 1
        assert len(sizes) == 1
        assert path.read_bytes() == expected

    def test_a_disk_without_room_for_the_journal_leaves_all_in_place(
        self, mbox: Mbox, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(ONE + TWO)
        snapshot = mbox.snapshot()

        def full(fd: int, offset: int, size: int) -> None:
            raise OSError(errno.ENOSPC, "full")

        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            with pytest.raises(MboxError) as caught:
                mbox.remove(snapshot, [0])
        assert caught.value.code == "4.3.1"
        assert (path.read_bytes(), names(path)) == (ONE + TWO, {"bob"})
        assert read(mbox.snapshot()) == read(snapshot)

    def test_a_spare_file_is_removed_only_for_its_room(
        self, mbox: Mbox, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(ONE + TWO + ONE)
        spare = path.parent / "spare"
        spare.write_bytes(b"x")
        reserve = os.posix_fallocate

        def full(fd: int, offset: int, size: int) -> None:
            if spare.exists():
                raise OSError(errno.ENOSPC, "full")
            reserve(fd, offset, size)

        monkeypatch.setattr(os, "posix_fallocate", full)
        assert mbox.remove(mbox.snapshot(), [2], spare).removed == 1
        assert spare.exists()
        assert mbox.remove(mbox.snapshot(), [0], spare).removed == 1
        assert path.read_bytes() == TWO
        assert names(path) == {"bob"}

    def test_the_less_room_the_smaller_the_windows(
        self, mbox: Mbox, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rest = b"".join(FROM + b"text %d\n\n" % number for number in range(1000))
        path.write_bytes(ONE + rest)
        asked = []
        reserve = os.posix_fallocate

        def nearly_full(fd: int, offset: int, size: int) -> None:
            asked.append(size)
            if size > 4096:
                raise OSError(errno.EDQUOT, "full")
            reserve(fd, offset, size)

        monkeypatch.setattr(os, "posix_fallocate", nearly_full)
        assert mbox.remove(mbox.snapshot(), [0]).removed == 1
        assert asked[1:] == sorted(asked[1:], reverse=True)
        assert asked[0] > len(rest)
        assert 2048 < asked[-1] <= 4096
        assert path.read_bytes() == rest

    def test_a_rewrite_in_too_many_steps_is_not_begun(
        self, mbox: Mbox, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(ONE + b"".join(FROM + b"text %d\n\n" % number for number in range(100)))
        before = path.read_bytes()
        monkeypatch.setattr(rewrite_journal, "MOST", 4)

        def nearly_full(_fd: int, _offset: int, size: int) -> None:
            if size < 2048:
                raise AssertionError("too small")
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "posix_fallocate", nearly_full)
        with pytest.raises(NoRoom):
            mbox.remove(mbox.snapshot(), [0])
        assert (path.read_bytes(), names(path)) == (before, {"bob"})

    def test_a_half_rewritten_mailbox_that_others_replaced_is_not_touched(
        self, mbox: Mbox, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(ONE + TWO)
        snapshot = mbox.snapshot()

        def fail(fd: int, size: int) -> None:
            raise OSError("broken")

        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", fail)
            with pytest.raises(MboxError):
                mbox.remove(snapshot, [0])
        journal = Path(f"{path}.stub-rewrite")
        content = bytearray(journal.read_bytes())
        content[48:64] = bytes(16)  # as if it had been cut short before
        journal.write_bytes(content)
        journal.chmod(0o600)
        path.write_bytes(ONE)
        assert read(mbox.snapshot()) == [b"Subject: 1\r\n\r\none\r\n"]
        (aside,) = names(path) - {"bob"}
        assert TWO in (path.parent / aside).read_bytes()
