"""A disk without any room: mail is read and deleted all the same, since deleting is what gives room again."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pop3d import Client, Pop3d, mbox
from tests.support.small_disk import unshare

SIZE = 4 << 20
MOUNT = 'mkdir -p "$0" && mount -t tmpfs -o size="$1",mode=755 tmpfs "$0" && shift && exec "$@"'
COUNT = 60
USERS = """
[users.bob]
address = "bob@beta.example"
password = "{PLAIN}open sesame"
maildrop = "%s"
"""


def message(number: int) -> bytes:
    return b"Subject: %d\n\n" % number + b"text of message %d\n" % number * 400


class SmallMaildrop:
    """A server whose maildrops are on a small file system that nobody else sees, but through /proc."""

    def __init__(self, root: Path, kind: str) -> None:
        disk = root / "disk"
        self.server = Pop3d(root, USERS % f"{kind}:{disk / 'bob'}")
        self.server.wrapper = [*unshare(), "sh", "-c", MOUNT, str(disk), str(SIZE)]
        self._disk = disk

    @property
    def inside(self) -> Path:
        """The disk's root directory."""
        return Path(f"/proc/{self.server.process.pid}/root{self._disk}")

    def fill(self) -> None:
        """Take all room, as another program would."""
        with (self.inside / "filler").open("ab", buffering=0) as file:
            for size in (65_536, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        assert os.statvfs(self.inside).f_bavail == 0

    def names(self) -> list[str]:
        """The files that a session has left, and may not have left."""
        return [path.name for path in self.inside.rglob("*") if ".tmp-" in path.name or ".lock" in path.suffixes]

    def delete(self, *numbers: int) -> bytes:
        """Retrieve and delete messages in a session; returns the answer to QUIT."""
        with Client(self.server.port) as client:
            assert client.log_in().startswith(b"+OK")
            for number in numbers:
                assert client.ask_lines(b"RETR %d" % number)[0].startswith(b"+OK")
                assert client.ask(b"DELE %d" % number).startswith(b"+OK")
            return client.ask(b"QUIT")

    def subjects(self) -> list[int]:
        """The numbers of the messages that a session finds, each of them whole."""
        found = []
        with Client(self.server.port) as client:
            assert client.log_in().startswith(b"+OK")
            for at in range(1, int(client.ask(b"STAT").split()[1]) + 1):
                lines = client.ask_lines(b"RETR %d" % at)[1:]
                found.append(int(lines[0].removeprefix(b"Subject: ")))
                assert lines == message(found[-1]).split(b"\n")[:-1]
            assert client.ask(b"QUIT").startswith(b"+OK")
        return found


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallMaildrop]:
    small = SmallMaildrop(tmp_path, "mbox")
    with small.server:
        (small.inside / "bob").write_bytes(mbox(*map(message, range(1, COUNT + 1))))
        yield small


@pytest.fixture
def small_maildir(tmp_path: Path) -> Iterator[SmallMaildrop]:
    small = SmallMaildrop(tmp_path, "maildir")
    with small.server:
        for name in ("new", "cur", "tmp"):
            (small.inside / "bob" / name).mkdir(parents=True)
        for number in range(1, COUNT + 1):
            (small.inside / "bob" / "new" / f"{number}.x").write_bytes(message(number))
        yield small


DELETIONS = {
    "all": list(range(1, COUNT + 1)),
    "the last": list(range(COUNT // 2, COUNT + 1)),
    "the first": list(range(1, COUNT // 2)),
    "all but two": [number for number in range(1, COUNT + 1) if number not in (7, 50)],
}


def rest(deletion: str) -> list[int]:
    return [number for number in range(1, COUNT + 1) if number not in DELETIONS[deletion]]


@pytest.mark.parametrize("deletion", DELETIONS)
def test_an_mbox_that_was_seen_before_the_disk_was_full(small: SmallMaildrop, deletion: str) -> None:
    assert small.subjects() == list(range(1, COUNT + 1))
    small.fill()
    assert small.delete(*DELETIONS[deletion]).startswith(b"+OK")
    assert small.subjects() == rest(deletion)
    assert small.names() == []


@pytest.mark.parametrize("deletion", ["all", "the last", "all but two"])
def test_an_mbox_that_is_seen_for_the_first_time(small: SmallMaildrop, deletion: str) -> None:
    small.fill()
    assert small.subjects() == list(range(1, COUNT + 1))
    assert small.delete(*DELETIONS[deletion]).startswith(b"+OK")
    assert small.subjects() == rest(deletion)
    assert small.names() == []


def test_what_cannot_be_done_without_any_room_is_said_and_leaves_all_in_place(small: SmallMaildrop) -> None:
    small.fill()
    assert small.delete(1) == b"-ERR [SYS/TEMP] The disk is full: messages were not deleted"
    assert "No space left on device" in small.server.logged(" failed ", "what=deletion", "user=bob")
    assert small.subjects() == list(range(1, COUNT + 1))
    assert small.names() == []
    (small.inside / "filler").unlink()
    assert small.delete(1).startswith(b"+OK")
    assert small.subjects() == list(range(2, COUNT + 1))


@pytest.mark.parametrize("deletion", DELETIONS)
def test_a_maildir(small_maildir: SmallMaildrop, deletion: str) -> None:
    small_maildir.fill()
    assert small_maildir.delete(*DELETIONS[deletion]).startswith(b"+OK")
    assert small_maildir.subjects() == rest(deletion)
    assert small_maildir.names() == []
    assert not list((small_maildir.inside / "bob" / "tmp").iterdir())
