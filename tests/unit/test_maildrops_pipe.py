"""A delivery program as a maildrop: what it gets, and what its end means for the message."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from stubmail.errors import TemporaryError
from stubmail.maildrops.pipe import Pipe
from stubmail.mbox import Delivery
from tests.support.waiting import wait_until

ID = "ab" * 16


class Run:
    """Delivers messages through a small Python program."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.recorded: list[str] = []

    def __call__(self, program: str, *messages: bytes, seconds: float = 20) -> Mapping[str, str]:
        command = [sys.executable, "-S", "-c", program, str(self.directory / "out")]
        pipe = Pipe(command, "bob@beta.example", self.directory, seconds)
        deliveries = [
            Delivery(f"{ID[:-1]}{number}/KEY", "alice@alpha.example", 0, message)
            for number, message in enumerate(messages)
        ]
        return pipe.deliver(deliveries, self.recorded.extend)

    @property
    def out(self) -> Path:
        return self.directory / "out"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


WRITE = "import sys, os; open(sys.argv[1], 'a').write(sys.stdin.read())"


def test_the_program_gets_the_message_with_the_line_ends_of_this_machine(run: Run) -> None:
    assert run(WRITE, b"A: b\r\n\r\none\r\n", b"A: b\r\n\r\ntwo") == {}
    assert run.out.read_bytes() == b"A: b\n\none\nA: b\n\ntwo\n"
    assert run.recorded == [f"{ID[:-1]}0/KEY", f"{ID[:-1]}1/KEY"]
    assert [path.name for path in run.directory.iterdir()] == ["out"]


def test_it_learns_who_and_which_from_its_environment_and_nothing_of_our_settings(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUBMAIL_POST_MANAGER_DATABASE", "postgresql://secret")
    run("import os, sys; open(sys.argv[1], 'w').write(repr(dict(os.environ)))", b"x")
    found = run.out.read_text()
    for pair in ("'SENDER': 'alice@alpha.example'", "'RECIPIENT': 'bob@beta.example'", f"'STUB_POST_ID': '{ID[:-1]}0'"):
        assert pair in found
    assert "secret" not in found


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("print('disk full'); raise SystemExit(75)", r"status 75 \(EX_TEMPFAIL\): disk full"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
    ],
)
def test_what_may_pass_keeps_this_and_all_further_messages_back(run: Run, program: str, says: str) -> None:
    with pytest.raises(TemporaryError, match=says):
        run(f"import sys\nif 'bad' in sys.stdin.read(): exec({program!r})", b"good", b"bad", b"good")
    assert run.recorded == [f"{ID[:-1]}0/KEY"]


def test_any_other_failure_is_this_messages_alone(run: Run) -> None:
    program = "import sys\nif 'bad' in sys.stdin.read(): print('no such user\\x1b[2J'); sys.exit(67)"
    refused = run(program, b"good", b"bad", b"good")
    assert refused == {f"{ID[:-1]}1/KEY": "the delivery program ended with status 67 (EX_NOUSER): no such user?[2J"}
    assert run.recorded == [f"{ID[:-1]}0/KEY", f"{ID[:-1]}2/KEY"]


def test_output_is_bounded(run: Run) -> None:
    refused = run("import sys; sys.stdout.write('x' * 10_000_000); sys.exit(1)", b"m")
    assert len(next(iter(refused.values()))) < 300


def test_a_program_that_does_not_read_its_input_is_no_trouble(run: Run) -> None:
    assert run("pass", b"x" * 1_000_000) == {}


def test_a_program_that_hangs_is_killed_with_its_children(run: Run) -> None:
    program = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN) if os.fork() else None\n"
        "open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
        "time.sleep(600)"
    )
    with pytest.raises(TemporaryError, match="in time"):
        run(program, b"m", seconds=2)
    assert run.recorded == []
    for pid in run.out.read_text().split():
        wait_until(lambda: not _alive(int(pid)), 20, "its end")  # noqa: B023


def test_a_child_that_keeps_the_output_open_delays_nothing(run: Run) -> None:
    program = (
        "import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\nif not os.fork():\n time.sleep(600)"
    )
    try:
        assert run(program, b"m", seconds=60) == {}, "else it was waited for"
    finally:
        os.killpg(int(run.out.read_text()), signal.SIGKILL)


def test_a_program_that_is_not_there_is_an_error_of_the_system(run: Run) -> None:
    with pytest.raises(FileNotFoundError):
        Pipe(["/nonexistent/mda"], "bob", run.directory, 1).deliver([Delivery("i/k", "", 0, b"m")], _nobody)


def test_a_delivery_under_way_is_ended_by_interrupt_and_no_other_begins(run: Run) -> None:
    program = "import sys, time; open(sys.argv[1], 'a').write('x'); time.sleep(600)"
    pipe = Pipe([sys.executable, "-S", "-c", program, str(run.out)], "bob@beta.example", run.directory, 600)
    errors: list[TemporaryError] = []

    def deliver() -> None:
        try:
            pipe.deliver([Delivery("i/k", "", 0, b"m"), Delivery("j/k", "", 0, b"m")], run.recorded.extend)
        except TemporaryError as error:
            errors.append(error)

    thread = threading.Thread(target=deliver)
    thread.start()
    wait_until(run.out.exists, 20)
    pipe.interrupt()
    thread.join(20)
    assert not thread.is_alive() and len(errors) == 1 and run.recorded == []
    with pytest.raises(TemporaryError, match="stopping"):
        pipe.deliver([Delivery("i/k", "", 0, b"m")], run.recorded.extend)
    assert run.out.read_text() == "x"


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


_nobody: Callable[[object], None] = lambda _: None  # noqa: E731
assert os.EX_NOUSER == 67
