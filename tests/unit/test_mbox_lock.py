"""The delivery lock against other threads, other programs and what dead ones left behind."""

import contextlib
import errno
import fcntl
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubmail.mbox import MailboxBusy, MailboxLock, MboxError, NotMbox
from stubmail.mbox.lock import ORPHAN_SECONDS, STALE_SECONDS, is_stale
from tests.support.graveyard import Graveyard
from tests.support.power import Machine

UPTIME = 1e6


@pytest.fixture
def mailbox(tmp_path: Path) -> Path:
    path = tmp_path / "bob"
    path.write_bytes(b"")
    return path


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def dotlock(mailbox: Path) -> Path:
    return Path(f"{mailbox}.lock")


@contextlib.contextmanager
def open_descriptors_stay_the_same() -> Iterator[None]:
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    yield
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before


def legacy_can_lock(mailbox: Path) -> bool:
    """Whether another process gets the classic fcntl lock."""
    program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", program, mailbox], capture_output=True).returncode == 0


def test_both_locks_are_held_inside_and_gone_after(mailbox: Path) -> None:
    with open_descriptors_stay_the_same():
        with MailboxLock(mailbox):
            assert not legacy_can_lock(mailbox)
            assert dotlock(mailbox).read_text().startswith(f"{os.getpid()}:{socket.gethostname()}\n")
        assert legacy_can_lock(mailbox)
        assert {path.name for path in mailbox.parent.iterdir()} == {"bob"}


def test_closing_another_descriptor_of_the_file_drops_no_lock(mailbox: Path) -> None:
    with MailboxLock(mailbox):
        mailbox.read_bytes()
        assert not legacy_can_lock(mailbox)


def test_the_locks_are_released_when_the_block_fails(mailbox: Path) -> None:
    with pytest.raises(RuntimeError), MailboxLock(mailbox):
        raise RuntimeError
    with MailboxLock(mailbox, timeout=0):
        pass


def test_a_second_holder_waits_no_longer_than_its_timeout(mailbox: Path) -> None:
    with open_descriptors_stay_the_same(), MailboxLock(mailbox):
        started = time.monotonic()
        with pytest.raises(MailboxBusy) as caught, MailboxLock(mailbox, timeout=0.1):
            pass
        assert 0.1 <= time.monotonic() - started < 5
        assert caught.value.code == "4.2.0"


def test_threads_exclude_each_other(mailbox: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(10):
            with MailboxLock(mailbox):
                inside += 1
                most = max(most, inside)
                os.sched_yield()
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_legacy_fcntl_lock_is_respected(mailbox: Path) -> None:
    program = """import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.readline()
"""
    legacy = subprocess.Popen(
        [sys.executable, "-c", program, mailbox], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert legacy.stdout is not None
    legacy.stdout.readline()
    with pytest.raises(MailboxBusy), MailboxLock(mailbox, timeout=0):
        pass
    legacy.communicate(b"\n")
    with MailboxLock(mailbox, timeout=0):
        pass


def test_a_legacy_dotlock_is_respected_and_left_alone(mailbox: Path) -> None:
    dotlock(mailbox).write_text("0")
    with open_descriptors_stay_the_same(), pytest.raises(MailboxBusy), MailboxLock(mailbox, timeout=0):
        pass
    assert dotlock(mailbox).read_text() == "0"
    assert legacy_can_lock(mailbox)


def test_a_dotlock_that_nobody_touched_for_long_is_broken(mailbox: Path) -> None:
    dotlock(mailbox).write_text("0")
    long_ago = time.time() - STALE_SECONDS - 1
    os.utime(dotlock(mailbox), (long_ago, long_ago))
    with MailboxLock(mailbox, timeout=0):
        assert dotlock(mailbox).read_text() != "0"
    assert not dotlock(mailbox).exists()


def test_what_a_killed_holder_left_is_broken_at_once(mailbox: Path) -> None:
    program = """import os, sys
from pathlib import Path
from stubmail.mbox import MailboxLock
MailboxLock(Path(sys.argv[1])).__enter__()
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program, mailbox], check=False)
    assert dotlock(mailbox).exists()
    with MailboxLock(mailbox, timeout=0):
        pass


def test_a_dotlock_that_others_have_taken_over_is_not_removed(mailbox: Path) -> None:
    with MailboxLock(mailbox):
        dotlock(mailbox).rename(mailbox.parent / "old")
        dotlock(mailbox).write_text("0")
    assert dotlock(mailbox).read_text() == "0"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_room_for_an_empty_dotlock(mailbox: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def full(_fd: int, _data: bytes, _offset: int) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pwrite", full)
    with MailboxLock(mailbox):
        assert dotlock(mailbox).read_bytes() == b""
        assert not legacy_can_lock(mailbox)
        with pytest.raises(MailboxBusy), MailboxLock(mailbox, timeout=0):
            pass
    assert [path.name for path in mailbox.parent.iterdir()] == ["bob"]


def test_refresh_touches_the_dotlock(mailbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MailboxLock(mailbox) as lock:
        os.utime(dotlock(mailbox), (1, 1))
        lock.refresh()
        assert dotlock(mailbox).stat().st_mtime == 1  # not at every call
        later = time.monotonic() + 60
        monkeypatch.setattr(time, "monotonic", lambda: later)
        lock.refresh()
        assert dotlock(mailbox).stat().st_mtime > 1


def test_a_mailbox_replaced_while_waiting_is_opened_anew(mailbox: Path) -> None:
    """Whoever holds the lock of a file that is no longer there holds nothing."""
    old = mailbox.open("r+")
    fcntl.lockf(old, fcntl.LOCK_EX)
    new = mailbox.parent / "new"
    new.write_bytes(b"")
    new.rename(mailbox)
    with old, MailboxLock(mailbox, timeout=0) as lock:
        assert os.fstat(lock.fd).st_ino == mailbox.stat().st_ino


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_missing_mailbox_is_created_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "new"
    old = os.umask(umask)
    try:
        with MailboxLock(path, create=True):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_mailbox_once_created_outlives_a_power_failure(tmp_path: Path) -> None:
    for seed in range(10):
        directory = tmp_path / str(seed)
        directory.mkdir()
        disk = Graveyard(directory)
        with Machine(disk=disk), MailboxLock(directory / "new", create=True):
            pass
        disk.lose(random.Random(seed))
        assert (directory / "new").exists()


def test_a_missing_mailbox_is_not_created_unasked(tmp_path: Path) -> None:
    with pytest.raises(MboxError), MailboxLock(tmp_path / "new"):
        pass
    assert not list(tmp_path.iterdir())


def test_symbolic_links_are_not_followed(tmp_path: Path, mailbox: Path) -> None:
    other = tmp_path / "other"
    other.write_text("0")
    dotlock(mailbox).symlink_to(other)
    with pytest.raises(MboxError), MailboxLock(mailbox, timeout=0):
        pass
    (tmp_path / "link").symlink_to(mailbox)
    with pytest.raises(NotMbox), MailboxLock(tmp_path / "link", timeout=0):
        pass
    assert other.read_text() == "0"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "odd")
    with open_descriptors_stay_the_same(), pytest.raises(MboxError), MailboxLock(tmp_path / "odd"):
        pass


class TestStale:
    """Which dotlocks have been left behind, when nobody holds the fcntl lock."""

    here = socket.gethostname()

    def test_of_a_process_that_lives(self) -> None:
        content = f"{os.getpid()}:{self.here}".encode()
        assert not is_stale(content, STALE_SECONDS - 1, UPTIME)
        assert is_stale(content, STALE_SECONDS + 1, UPTIME)

    def test_of_a_dead_process_of_this_host(self, dead_pid: int) -> None:
        assert is_stale(f"{dead_pid}:{self.here}".encode(), 0, UPTIME)

    def test_of_an_unknown_process_of_another_host(self, dead_pid: int) -> None:
        assert not is_stale(f"{dead_pid}:elsewhere.example".encode(), STALE_SECONDS - 1, UPTIME)

    @pytest.mark.parametrize(
        "content", [b"0", b"1234567", b"-1:HOST", b"x" * 500, b"\xff\0", b"0:HOST", b"9" * 40 + b":HOST"]
    )
    def test_of_nobody_in_particular(self, content: bytes) -> None:
        content = content.replace(b"HOST", self.here.encode())
        assert not is_stale(content, STALE_SECONDS - 1, UPTIME)
        assert is_stale(content, STALE_SECONDS + 1, UPTIME)

    def test_of_ours_in_another_container(self) -> None:
        content = f"{os.getpid()}:{self.here}\nstubmail pid:[1]\n".encode()
        assert not is_stale(content, ORPHAN_SECONDS - 1, UPTIME)
        assert is_stale(content, ORPHAN_SECONDS + 1, UPTIME)

    def test_of_an_empty_one_from_before_the_machine_started(self) -> None:
        assert not is_stale(b"", 20, UPTIME)
        assert is_stale(b"", 20, 10)
