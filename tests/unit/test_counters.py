"""Counters of several processes: nothing is lost when one of them dies, and nothing grows."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stubmail import counters
from stubmail.counters import Counters

NAMES = ("refused mac", "store answered", "checks unknown")
REPOSITORY = Path(__file__).resolve().parents[2]


def files(directory: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_size) for path in directory.iterdir())


@pytest.mark.parametrize("shared", [False, True])
def test_names_are_declared_and_begin_with_zero(tmp_path: Path, shared: bool) -> None:
    numbers = Counters(NAMES, tmp_path if shared else None)
    assert numbers.totals() == dict.fromkeys(NAMES, 0)
    numbers.add("store answered")
    numbers.add("store answered", 2**40)
    assert numbers["store answered"] == 2**40 + 1
    assert numbers.snapshot() == {"store_answered": 2**40 + 1}
    with pytest.raises(KeyError):
        numbers.add("stoer answered")
    numbers.close()


def test_the_next_process_goes_on_in_the_same_row(tmp_path: Path) -> None:
    for round_ in range(1, 10):
        first, second = Counters(NAMES, tmp_path), Counters(NAMES, tmp_path)
        first.add("refused mac")
        second.add("refused mac", 2)
        assert first["refused mac"] == second["refused mac"] == 3 * round_
        assert first.snapshot() == {"refused_mac": 1}
        first.close()
        second.close()
        if round_ == 1:
            before = files(tmp_path)
    assert files(tmp_path) == before


def test_a_killed_process_leaves_its_numbers_and_its_row(tmp_path: Path) -> None:
    own = Counters(NAMES, tmp_path)
    program = (
        "import os, sys; from pathlib import Path; from stubmail.counters import Counters\n"
        f"Counters({NAMES!r}, Path(sys.argv[1])).add('checks unknown', 5); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=REPOSITORY, check=False, timeout=30)
    assert own["checks unknown"] == 10
    heir = Counters(NAMES, tmp_path)
    heir.add("checks unknown")
    assert heir["checks unknown"] == 11
    assert heir.snapshot() == {"checks_unknown": 1}
    own.close()
    heir.close()


def test_threads_lose_nothing(tmp_path: Path) -> None:
    numbers = Counters(NAMES, tmp_path)

    def count() -> None:
        for _ in range(2_000):
            numbers.add("refused mac")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers["refused mac"] == 16_000
    numbers.close()


def test_more_processes_than_rows_share_one_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "ROWS", 3)
    many = [Counters(NAMES, tmp_path) for _ in range(6)]
    threads = [threading.Thread(target=lambda one=one: [one.add("refused mac") for _ in range(500)]) for one in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert many[0]["refused mac"] == 3_000
    for one in many:
        one.close()


def test_a_file_that_is_not_whole_is_made_anew_and_others_names_go(tmp_path: Path) -> None:
    Counters(("older",), tmp_path).close()
    [(old, _)] = files(tmp_path)
    Counters(NAMES, tmp_path).close()
    [(name, size)] = files(tmp_path)
    assert name != old
    for wrong in (b"", b"x" * size, b"x"):
        (tmp_path / name).write_bytes(wrong)
        numbers = Counters(NAMES, tmp_path)
        assert numbers["refused mac"] == 0
        numbers.close()
        assert files(tmp_path) == [(name, size)]


def test_it_takes_its_room_at_the_beginning(tmp_path: Path) -> None:
    Counters(NAMES, tmp_path).close()
    [path] = tmp_path.iterdir()
    assert path.stat().st_blocks * 512 >= path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_room_is_an_error_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, start: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        Counters(NAMES, tmp_path)
    assert files(tmp_path) == []
