"""What a CGI store leaves running: its log stays small, its environment clean, and failures do not multiply."""

import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.post_manager.udp import daemon
from services.post_manager.udp.daemon_process import BoundedLog


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been started."""
    commands: list[list[str]] = []

    def start(command: list[str], **options: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(pid=4242, returncode=None)

    monkeypatch.setattr(daemon.subprocess, "Popen", start)
    return commands


def test_one_that_failed_is_not_started_by_every_call(tmp_path: Path, starts: list[list[str]]) -> None:
    config = tmp_path / "stub.conf"
    assert daemon.ensure(tmp_path, config)
    lock = tmp_path / daemon.LOCK
    assert lock.read_text().strip() == "4242"
    assert daemon.ensure(tmp_path, config)  # it was killed: there is another at once
    assert len(starts) == 2
    lock.write_text(daemon.FAILED)
    for _ in range(3):
        assert not daemon.ensure(tmp_path, config)
    past = lock.stat().st_mtime - daemon.RETRY_SECONDS - 1
    os.utime(lock, (past, past))
    assert daemon.ensure(tmp_path, config)
    assert len(starts) == 3
    lock.write_text(daemon.FAILED)
    future = lock.stat().st_mtime + 10_000  # a clock that was set back must not keep it off for long
    os.utime(lock, (future, future))
    assert daemon.ensure(tmp_path, config)


def test_what_cannot_be_started_costs_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not daemon.ensure(tmp_path / "missing", tmp_path / "stub.conf")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert not daemon.ensure(tmp_path, tmp_path / "stub.conf")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


def test_only_a_process_that_holds_the_lock_is_stopped(tmp_path: Path) -> None:
    assert daemon.stop(tmp_path) is None
    (tmp_path / daemon.LOCK).write_text(str(os.getpid()))  # left over: this process must not get a signal
    assert daemon.stop(tmp_path) is None
    assert not daemon.runs(tmp_path)


def test_the_environment_of_a_request_is_left_behind() -> None:
    kept = {"PATH": "/bin", "STUB_CONF": "/etc/stub.conf", "STUBMAIL_POST_MANAGER_SPOOL": "/s", "PGPASSFILE": "/p"}
    request = {"HTTP_PROXY": "http://192.0.2.1", "REMOTE_ADDR": "192.0.2.1", "QUERY_STRING": "x", "LD_PRELOAD": "x"}
    assert daemon.environment(kept | request) == kept


def test_a_log_is_as_large_as_it_may_be_and_no_larger(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = BoundedLog(path, 1000)
    for number in range(200):
        assert file.write(f"line {number:03}\n") == 9
    sizes = {entry.name: entry.stat().st_size for entry in tmp_path.iterdir()}
    assert set(sizes) == {"log", "log.1"}
    assert max(sizes.values()) <= 1000
    assert path.read_text().endswith("line 199\n")


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    assert BoundedLog(tmp_path / "missing" / "log").write("text") == 4
