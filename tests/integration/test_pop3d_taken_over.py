"""A front that was taken over: whatever it says, it gets no more than a right password gives; as root only."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pop3d import ROOT, mbox
from tests.support.unix_users import PASSWORD, Machine, machine

MAIL = 8

FRONT = """
import os, socket, sys
from services.pop3d.settings import Pop3d
from services.pop3d.system.calls import KNOCK, Answer, HandOver, Login
from services.pop3d.system.keeper import Keeper
from services.pop3d.system.pam import Pam
from services.pop3d.system.privileges import become
from stubmail import log

name, other, service, password = sys.argv[1:]
log.setup()


def show(*words):
    print(*words, flush=True)


class TakenOver(Keeper):
    def _serve_strangers(self, keeper):
        become(65534, 65534, ())
        keeper.setblocking(True)
        knock = lambda *ends: socket.send_fds(keeper, [KNOCK], [end.fileno() for end in ends])

        def call(*said):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                knock(theirs)
                theirs.close()
                answers = []
                for octets in said:
                    try:
                        ours.send(octets)
                        answers.append(ours.recv(4096))
                    except (BrokenPipeError, ConnectionResetError):
                        answers.append(b"")
                return answers

        keeper.send(b"no descriptor")
        keeper.send(KNOCK * 10_000)
        one, two = socket.socketpair()
        knock(one, two)
        knock(one)  # a stream, at whose other end is nobody
        two.close()
        with open("/dev/null", "rb") as null:
            knock(null)
        login = lambda *words: Login("session", "192.0.2.1", *words).to_wire()
        for said in (b"junk", b"{}", login(other, "wrong"), login("root", password), login("root", ""), login("", "")):
            show("refused" if call(said)[0] in (b"", Answer(code="AUTH").to_wire()) else "let in")
        for junk in (b"junk", b"[" * 100_000, HandOver("USER", False, "").to_wire(), login(other, password)):
            opened, end = call(login(name, password), junk)
            show(Answer.from_wire(opened).user, end)
        return os.EX_CONFIG


settings = Pop3d(system_users=True, pam_service=service, login_seconds=20)
keeper = TakenOver(settings, Pam(service), 8, (65534, 65534), ())
sys.exit(keeper.run())
"""


@pytest.fixture
def unix() -> Iterator[Machine]:
    with machine() as made:
        yield made


def test_a_front_that_was_taken_over_gets_what_a_right_password_gives(tmp_path: Path, unix: Machine) -> None:
    for user in (unix.one, unix.two):
        path = Path("/var/mail") / user.name
        path.write_bytes(mbox(b"Subject: x\n\n"))
        os.chown(path, user.uid, MAIL)
    result = subprocess.run(
        [sys.executable, "-c", FRONT, unix.one.name, unix.two.name, unix.service, PASSWORD],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.stdout.splitlines() == [*["refused"] * 6, *[f"{unix.one.name} b''"] * 4], result.stderr
    assert result.returncode == os.EX_CONFIG, result.stderr
