"""Several programs at one mailbox at the same time, some of them killed: nothing lost, doubled or interleaved."""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stubmail.mbox import Mbox
from tests.conftest import ROOT
from tests.support.mailbox_writers import name_of

LIMIT = 60.0  # seconds that the writers may take on the busiest machine; alone they need three


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "mail").mkdir()
    return tmp_path / "mail" / "bob"


def start(kind: str, path: Path, prefix: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.mailbox_writers", kind, path, prefix, str(count)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )


class Session:
    """A POP3 session as the mailbox sees it: it takes some messages away."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.fetched: list[str] = []
        self._mbox = Mbox(path, owner="reader")
        self._chance = chance

    def run(self, part: float) -> None:
        snapshot = self._mbox.snapshot()
        numbers = [number for number in range(len(snapshot)) if self._chance.random() < part]
        names = [name_of(b"".join(snapshot.chunks(number))) for number in numbers]
        assert self._mbox.remove(snapshot, numbers).removed == len(numbers)
        self.fetched += names

    def run_until(self, over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT
        while not over():
            assert time.monotonic() < deadline
            self.run(0.5)
        self.run(1)


def expected(**counts: int) -> Counter[str]:
    return Counter(f"{prefix}{number}" for prefix, count in counts.items() for number in range(count))


def test_two_pullers_two_legacy_programs_and_a_reader(path: Path) -> None:
    path.write_bytes(b"")
    writers = [
        start("legacy", path, "x", 300),
        start("legacy", path, "y", 300),
        start("deliver", path, "p", 300),
        start("deliver", path, "q", 300),
    ]
    session = Session(path, random.Random(1))
    session.run_until(lambda: all(writer.poll() is not None for writer in writers))
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert Counter(session.fetched) == expected(x=300, y=300, p=300, q=300)
    assert {entry.name for entry in path.parent.iterdir()} == {"bob"}


@pytest.mark.parametrize("seed", range(3))
def test_a_puller_that_is_killed_again_and_again(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path.write_bytes(b"")
    legacy = start("legacy", path, "x", 60)
    session = Session(path, chance)
    kills = 0
    deadline = time.monotonic() + LIMIT
    while True:
        assert time.monotonic() < deadline
        with start("deliver", path, "p", 400) as puller:
            assert puller.stdout is not None
            for _ in range(chance.randrange(1, 8)):
                ended = not puller.stdout.readline()
            kills += not ended
            puller.kill()
        session.run(0.3)
        if ended:
            break
    session.run_until(lambda: legacy.poll() is not None)
    legacy.communicate()
    assert kills > 5
    assert Counter(session.fetched) == expected(x=60, p=400)
    assert {entry.name for entry in path.parent.iterdir()} == {"bob"}
