"""Ports for servers that have to know theirs beforehand."""

import subprocess
import sys
from pathlib import Path

import pytest

from stubmail.testing import ports

REPOSITORY = Path(__file__).resolve().parents[2]
FEW = 40
PROGRAM = """
import sys
from stubmail.testing import ports
ports._RANGE = eval(sys.argv[1])
print(*ports.free_ports(int(sys.argv[2])))
"""


def test_processes_that_look_for_ports_at_the_same_time_find_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    few = range(first := ports.free_ports(1)[0], first + FEW)
    monkeypatch.setattr(ports, "_RANGE", few)
    ours = ports.free_ports(FEW // 4)
    command = [sys.executable, "-c", PROGRAM, repr(few), str(FEW // 4)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    theirs = [int(port) for port in done.stdout.split()]
    assert len({*ours, *theirs}) == 2 * (FEW // 4)


def test_claims_do_not_add_up() -> None:
    for _ in range(3):
        ports.free_ports(ports._CLAIMS)
    assert len(ports._claims) == ports._CLAIMS
