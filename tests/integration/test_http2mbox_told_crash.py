"""kill -9 at every durable step of telling of expired posts: after the next start each was told of once."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from services.http2mbox import outbox
from services.http2mbox.outbox import OwnOutbox, Told
from services.http2mbox.pull import Limits
from services.http2mbox.state import State
from stubmail.address import Address
from stubmail.discovery import Store
from stubmail.mbox import Mbox
from stubmail.sent import Record, SentLog, SentRecords
from stubmail.store_answers import Outbox, Sent
from tests.support.fake_store import BOB, make_account

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0
HOME = Store("post.beta.example", 8080, "post_manager")
CARL = Address("carl", "alpha.example")
IDS = [number.to_bytes(16, "big") for number in range(1, 6)]
_POST_ID = re.compile(rb"^X-Stub-Post-ID: ([0-9a-f]{32})\r?$", re.MULTILINE)


class Fuse:
    """Kills this process with the ``left``-th step; 0: never."""

    def __init__(self, left: int) -> None:
        self._left = left

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Home:
    """A store with some expired posts; the next process finds one more, of the same message as the others."""

    def __init__(self, count: int) -> None:
        self.posts = [
            Sent(each, at, "CA" * 20, CARL, 900, "expired", int(NOW) - 5000, int(NOW) - 100, int(NOW) - 100)
            for at, each in enumerate(IDS[:count], 1)
        ]

    def outbox(self, after: int = 0, limit: int = 1000, states: Sequence[str] = (), since: int | None = None) -> Outbox:
        found = [post for post in self.posts if post.state in states and (post.changed, post.serial) > (since, after)]
        return Outbox(tuple(found[:limit]), len(found) > limit)


def run(directory: Path, count: int, fuse: Fuse) -> None:
    """One process's life, with a step before and after whatever reaches the disk."""

    def counted(function):  # type: ignore[no-untyped-def]
        def wrapped(*arguments, **options):  # type: ignore[no-untyped-def]
            fuse.step()
            result = function(*arguments, **options)
            fuse.step()
            return result

        return wrapped

    outbox.PAGE = 3
    State.record = counted(State.record)  # type: ignore[method-assign]
    State.set_watch = counted(State.set_watch)  # type: ignore[method-assign]
    os.fsync, os.unlink, os.pwrite, os.link = map(counted, (os.fsync, os.unlink, os.pwrite, os.link))
    account = make_account(directory, clock=lambda: NOW)
    account.recover()
    home, records = Home(count), SentRecords(directory / "sent", BOB)
    own = OwnOutbox(
        account, lambda: (HOME,), lambda _: home, records, Limits(1000), rng=random.Random(1), clock=lambda: NOW
    )
    own.look(Told(), full=True, stopping=lambda: False)
    account.close()


def try_every_step(directory: Path) -> int:
    """Die at step 1, 2, 3 …, each time in a fresh place, until the process lives; return how many died."""
    for step in range(1, 1000):
        place = directory / str(step)
        place.mkdir()
        SentLog(place / "sent", BOB).add([Record(BOB, tuple((each, CARL) for each in IDS), b"Subject: x\r\n")], NOW)
        died = in_child(place, len(IDS) - 1, step)
        assert in_child(place, len(IDS), 0) == 0
        snapshot = Mbox(place / "mbox").snapshot()
        found = [name for at in range(len(snapshot)) for name in _POST_ID.findall(b"".join(snapshot.chunks(at)))]
        assert sorted(found) == [each.hex().encode() for each in IDS], f"step {step}: {found}"
        if not died:
            return step - 1
    raise AssertionError("it never lived")


def in_child(place: Path, count: int, step: int) -> int:
    """Return the signal that the child died of, 0 when it ended well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(place, count, Fuse(step))
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the child failed at step {step}"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def test_each_post_is_told_of_once_wherever_the_puller_is_killed(tmp_path: Path) -> None:
    # In a process of its own: one without threads, which may fork.
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


if __name__ == "__main__":
    print(try_every_step(Path(sys.argv[1])))
