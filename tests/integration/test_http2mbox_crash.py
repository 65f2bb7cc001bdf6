"""kill -9 at every durable step of a pull: after the next start each message is in the maildrop once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from services.http2mbox import pull
from services.http2mbox.account import Account
from services.http2mbox.pull import Limits, Pull
from services.http2mbox.state import State
from services.http2mbox.workers import MemoryGate
from stubmail.maildrops.maildir import Maildir
from stubmail.mbox import Mbox
from tests.support.fake_store import FakeStore, honest_message, make_account

ROOT = Path(__file__).parents[2]
MESSAGES = 5
ACKNOWLEDGED = "acknowledged"  # what the store has heard, in a file, since the store lives in each process anew


class Fuse:
    """Kills this process with the ``left``-th step; 0: never."""

    def __init__(self, left: int) -> None:
        self._left = left

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class FileStore(FakeStore):
    """Remembers acknowledgements in a file, or loses them all."""

    def __init__(self, directory: Path, fuse: Fuse, remembers: bool) -> None:
        super().__init__()
        self._path = directory / ACKNOWLEDGED
        self._fuse = fuse
        self._remembers = remembers
        known = self._path.read_text().split() if self._path.exists() else []
        for number in range(MESSAGES):
            listed = self.put_message(number)
            if listed.id.hex() in known:
                del self.posts[listed.id]

    def ack(self, ids: Iterable[bytes]) -> None:
        ids = list(ids)
        self._fuse.step()
        super().ack(ids)
        if self._remembers:
            with self._path.open("a") as file:
                file.write("".join(f"{post_id.hex()}\n" for post_id in ids))
        self._fuse.step()


def run(directory: Path, kind: str, remembers: bool, fuse: Fuse) -> None:
    """One process's life, with a step before and after whatever reaches the disk."""
    store = FileStore(directory, fuse, remembers)
    pull.BATCH_POSTS = 2
    record, fsync, unlink = State.record, os.fsync, os.unlink

    def counted(function):  # type: ignore[no-untyped-def]
        def wrapped(*arguments, **options):  # type: ignore[no-untyped-def]
            fuse.step()
            result = function(*arguments, **options)
            fuse.step()
            return result

        return wrapped

    State.record = counted(record)  # type: ignore[method-assign]
    os.fsync, os.unlink, os.pwrite, os.link = map(counted, (fsync, unlink, os.pwrite, os.link))
    os.rename, os.replace = map(counted, (os.rename, os.replace))
    maildrop = Maildir(directory / "Maildir", directory / "maildir.json", "bob") if kind == "maildir" else None
    account: Account = make_account(directory, maildrop)
    account.recover()
    Pull(
        account, account.contacts(), "alpha.example", "post.alpha.example", store, Limits(10**6), MemoryGate(10**6)
    ).run()
    account.close()


def try_every_step(directory: Path, kind: str, remembers: bool) -> int:
    """Die at step 1, 2, 3 …, each time in a fresh place, until the process lives; return how many died."""
    for step in range(1, 1000):
        place = directory / str(step)
        place.mkdir()
        died = in_child(place, kind, remembers, step)
        assert in_child(place, kind, remembers, 0) == 0
        found = messages(place, kind)
        wanted = [honest_message(number).partition(b"\r\n\r\n")[2] for number in range(MESSAGES)]
        assert sorted(found) == sorted(wanted), f"step {step}: {len(found)} messages"
        leftovers = {path.name for path in place.iterdir()} - {"mbox", "Maildir", "state.sqlite3", ACKNOWLEDGED}
        leftovers |= {path.name for path in (place / "Maildir" / "tmp").glob("*")}
        assert not leftovers, f"step {step}: {leftovers}"
        if not died:
            return step - 1
    raise AssertionError("it never lived")


def messages(place: Path, kind: str) -> list[bytes]:
    """The messages' texts as their reader gets them."""
    if kind == "maildir":
        whole = [path.read_bytes().replace(b"\n", b"\r\n") for path in (place / "Maildir" / "new").iterdir()]
    else:
        snapshot = Mbox(place / "mbox").snapshot()
        whole = [b"".join(snapshot.chunks(at)) for at in range(len(snapshot))]
    return [message.partition(b"\r\n\r\n")[2] for message in whole]


def in_child(place: Path, kind: str, remembers: bool, step: int) -> int:
    """Return the signal that the child died of, 0 when it ended well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(place, kind, remembers, Fuse(step))
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the child failed at step {step}"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.parametrize("kind", ["mbox", "maildir"])
@pytest.mark.parametrize("acks", ["kept", "lost"])
def test_each_message_is_there_once_wherever_the_puller_is_killed(tmp_path: Path, kind: str, acks: str) -> None:
    # In a process of its own: one without threads, which may fork.
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), kind, acks],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


if __name__ == "__main__":
    print(try_every_step(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "kept"))
