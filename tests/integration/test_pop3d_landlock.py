"""A process without files: what it cannot do any more, and what it still can."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pop3d import ROOT

CODE = """
import os, socket, sys, threading
from services.pop3d.system.landlock import forbid_files
from services.pop3d.system.privileges import _prctl
_prctl(38, 1)
kept = open(sys.argv[1])
if not forbid_files():
    print("no landlock")
    sys.exit()
def attempt(what):
    try:
        what()
        print("done")
    except PermissionError:
        print("refused")
new = sys.argv[1] + ".new"
def all_of_it():
    attempt(lambda: open(sys.argv[1]))
    attempt(lambda: open("/etc/passwd"))
    attempt(lambda: open(new, "w"))
    attempt(lambda: os.mkdir(new))
    attempt(lambda: os.unlink(sys.argv[1]))
    attempt(lambda: os.listdir("/"))
    attempt(lambda: os.execv("/bin/true", ["true"]))
all_of_it()
thread = threading.Thread(target=all_of_it)
thread.start()
thread.join()
print(kept.read())
one, other = socket.socketpair()
one.send(b"x")
descriptor = os.memfd_create("pem")
open(f"/proc/self/fd/{descriptor}").close()
print("still there")
"""


def test_no_file_can_be_opened_made_or_removed_by_whoever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if result.stdout == "no landlock\n":
        pytest.skip("this kernel has no landlock")
    assert result.stdout.split() == [*["refused"] * 14, "content", "still", "there"], result.stderr
