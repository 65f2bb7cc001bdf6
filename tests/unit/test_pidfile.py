"""Who runs a service: found out from the kernel, and never a process that only has a dead one's number."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stubmail import pidfile
from stubmail.errors import Exit

REPOSITORY = Path(__file__).resolve().parents[2]
HOLD = (
    "import sys; from pathlib import Path; from stubmail import pidfile\n"
    "with pidfile.running(Path(sys.argv[1]), 'it runs'): print('up', flush=True); sys.stdin.read()"
)


def test_the_holder_is_found_and_a_second_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    assert pidfile.holder(path) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert pidfile.holder(path) == process.pid
        assert path.read_text() == f"{process.pid}\n"
        with (
            pytest.raises(Exit, match=f"it runs already, as process {process.pid}") as error,
            pidfile.running(path, "it runs"),
        ):
            pytest.fail("two at once")
        assert error.value.status == os.EX_UNAVAILABLE
        process.kill()
    assert path.exists()
    assert pidfile.holder(path) is None  # whatever number it holds
    with pidfile.running(path, "it runs"):
        assert path.read_text() == f"{os.getpid()}\n"
