"""The supervisor with real children, as small as processes get."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from stubmail import supervisor as module
from stubmail.supervisor import Child, Supervisor
from tests.support.waiting import eventually, wait_until

PYTHON = [sys.executable, "-ISc"]  # isolated, without site: it starts in a few milliseconds
SAY = "import os, signal, sys; say = lambda text: os.write(1, (text + '\\n').encode())\n"
STAY = SAY + "say('up'); signal.pause()"
STUBBORN = SAY + "signal.signal(signal.SIGTERM, signal.SIG_IGN); say('up'); signal.sigwait([signal.SIGUSR1])"


class Stage:
    """Children whose output is one file each, and what the supervisor says of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.started: list[tuple[str, int]] = []

    def child(self, name: str, code: str, **more: object) -> Child:
        return Child(name, [*PYTHON, code], output=self._directory / name, **more)  # type: ignore[arg-type]

    def said(self, name: str) -> list[str]:
        path = self._directory / name
        return path.read_text().split() if path.exists() else []

    def run(
        self,
        children: list[Child],
        scenario: Callable[[Supervisor], Awaitable[None]] | None = None,
        drain_seconds: float = 10.0,
    ) -> int:
        """Supervise the children while the scenario plays; return the exit status."""

        async def play() -> int:
            supervisor = Supervisor(children, drain_seconds=drain_seconds)
            supervisor.on_start = lambda name, pid: self.started.append((name, pid))
            running = asyncio.create_task(supervisor.run())
            if scenario is not None:
                await scenario(supervisor)
            return await asyncio.wait_for(running, 20)

        return asyncio.run(play())

    def pids(self, name: str) -> list[int]:
        return [pid for child, pid in self.started if child == name]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_children_run_until_told_to_stop(stage: Stage) -> None:
    async def scenario(supervisor: Supervisor) -> None:
        await eventually(lambda: stage.said("a") and stage.said("b"))
        supervisor.stop()

    assert stage.run([stage.child("a", STAY), stage.child("b", STAY)], scenario) == 0
    assert sorted(name for name, _ in stage.started) == ["a", "b"]
    for _, pid in stage.started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_child_that_dies_is_started_again_after_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.01)

    async def scenario(supervisor: Supervisor) -> None:
        for times in (1, 2, 3):
            await eventually(lambda times=times: len(stage.said("a")) == times)
            os.kill(stage.pids("a")[-1], signal.SIGKILL)
        await eventually(lambda: len(stage.said("a")) == 4)
        supervisor.stop()

    assert stage.run([stage.child("a", STAY)], scenario) == 0
    assert len(set(stage.pids("a"))) == 4
    died = [record.getMessage() for record in caplog.records]
    assert died == ["a died status=-9 restart_seconds=0.01"] * 3


def test_a_child_inherits_a_socket(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = (
            SAY + f"import socket; say(str(socket.socket(fileno={listener.fileno()}).getsockname()[1])); signal.pause()"
        )

        async def scenario(supervisor: Supervisor) -> None:
            await eventually(lambda: stage.said("a"))
            supervisor.stop()

        assert stage.run([stage.child("a", code, pass_fds=(listener.fileno(),))], scenario) == 0
        assert stage.said("a") == [str(listener.getsockname()[1])]


def test_a_child_that_ends_well_is_started_again_too(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.01)

    async def scenario(supervisor: Supervisor) -> None:
        await eventually(lambda: len(stage.said("a")) >= 2)
        supervisor.stop()

    assert stage.run([stage.child("a", SAY + "say('up')")], scenario) == 0


@pytest.mark.parametrize("status", [os.EX_USAGE, os.EX_CONFIG, os.EX_NOPERM, os.EX_UNAVAILABLE])
def test_a_hopeless_child_ends_all_with_its_status(
    stage: Stage, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 30.0)
    children = [stage.child("good", STAY), stage.child("bad", f"raise SystemExit({status})")]
    assert stage.run(children) == status
    assert f"bad ended status={status}" in [record.getMessage() for record in caplog.records]


def test_a_second_sigterm_does_not_wait_for_the_first(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(supervisor: Supervisor) -> None:
        await eventually(lambda: stage.said("stubborn"))
        supervisor.terminate()
        supervisor.terminate()

    assert stage.run([stage.child("stubborn", STUBBORN)], scenario, drain_seconds=3600.0) == 0
    assert [record.getMessage() for record in caplog.records] == ['- killed names=stubborn reason="told twice"']


def test_a_child_that_has_once_run_is_not_hopeless_later(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port may be in use for a moment by what a killed child left behind."""
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.01)
    flag = stage._directory / "flag"
    code = SAY + f"say('up')\nif os.path.exists({str(flag)!r}): sys.exit({os.EX_UNAVAILABLE})\nsignal.pause()"

    async def scenario(supervisor: Supervisor) -> None:
        await eventually(lambda: stage.said("a"))
        flag.touch()
        os.kill(stage.pids("a")[0], signal.SIGKILL)
        await eventually(lambda: len(stage.pids("a")) >= 3)
        flag.unlink()
        supervisor.stop()

    assert stage.run([stage.child("a", code)], scenario) == 0


def test_a_program_that_is_not_there(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    assert stage.run([Child("a", ["/nowhere/program"])]) == os.EX_OSERR
    assert 'a failed error="No such file or directory"' in [record.getMessage() for record in caplog.records]


def test_a_child_that_does_not_end_is_killed(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(supervisor: Supervisor) -> None:
        await eventually(lambda: stage.said("a") and stage.said("b"))
        supervisor.stop()

    children = [stage.child("a", STUBBORN), stage.child("b", STAY)]
    assert stage.run(children, scenario, drain_seconds=0.1) == 0
    assert "- killed names=a" in [record.getMessage() for record in caplog.records]


def test_signals_are_passed_on(stage: Stage) -> None:
    code = SAY + "signal.signal(signal.SIGHUP, lambda *_: say('again')); say('up')\nwhile True: signal.pause()"

    async def scenario(supervisor: Supervisor) -> None:
        await eventually(lambda: stage.said("a") and stage.said("b"))
        supervisor.signal(signal.SIGHUP)
        await eventually(lambda: stage.said("a") == stage.said("b") == ["up", "again"])
        supervisor.stop()

    assert stage.run([stage.child("a", code), stage.child("b", code)], scenario) == 0


def test_a_child_has_its_own_environment(stage: Stage) -> None:
    async def scenario(supervisor: Supervisor) -> None:
        await eventually(lambda: stage.said("a"))
        supervisor.stop()

    child = stage.child("a", SAY + "say(os.environ['COLOUR']); signal.pause()", env={"COLOUR": "blue"})
    assert stage.run([child], scenario) == 0
    assert stage.said("a") == ["blue"]


def test_stopping_while_a_child_waits_to_be_started_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 30.0)

    async def scenario(supervisor: Supervisor) -> None:
        await eventually(lambda: stage.pids("a"))
        await eventually(lambda: not supervisor._processes)
        supervisor.stop()

    assert stage.run([stage.child("a", "raise SystemExit(1)")], scenario) == 0
    assert len(stage.pids("a")) == 1


def test_stopping_while_a_child_is_being_started(stage: Stage) -> None:
    async def scenario(supervisor: Supervisor) -> None:
        supervisor.stop()

    assert stage.run([stage.child("a", STAY)], scenario) == 0
    assert len(stage.pids("a")) <= 1


def test_a_child_that_has_just_ended_is_sent_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        pid = 1
        returncode = 0

        async def wait(self) -> int:
            return 0

        def send_signal(self, number: int) -> None:
            raise ProcessLookupError

        terminate = send_signal

    async def play() -> int:
        supervisor = Supervisor([Child("a", ["a"])])

        async def start(_: Child) -> Gone:
            supervisor.stop()
            return Gone()

        monkeypatch.setattr(module, "_start", start)
        return await supervisor.run()

    assert asyncio.run(play()) == 0


def test_nothing_to_supervise(stage: Stage) -> None:
    async def scenario(supervisor: Supervisor) -> None:
        supervisor.stop(3)

    assert stage.run([], scenario) == 3


# As a process of its own

CHILD = SAY + "signal.signal(signal.SIGHUP, lambda *_: say('again')); say(str(os.getpid()))\nwhile True: signal.pause()"
PROGRAM = f"""
import sys
from stubmail import log
from stubmail.supervisor import Child, supervise
log.setup()
sys.exit(supervise([Child("a", {[*PYTHON, CHILD]!r})], drain_seconds=5))
"""


@pytest.fixture
def process() -> Iterator["subprocess.Popen[str]"]:
    """A supervisor with one child that has said its process id on standard output."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def gone(pid: int) -> bool:
    """Whether a process is no more, or waits only to be reaped by somebody else."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_is_orderly(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "again\n"
    process.send_signal(number)
    assert process.wait(30) == 0
    assert gone(pid)


def test_no_child_outlives_a_killed_supervisor(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    wait_until(lambda: gone(pid), what="the child's end")
