"""PAM and the way out of root, on users of this machine that the test makes; as root only."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.pop3d.system.pam import MAX_PASSWORD, Pam, is_configured
from stubmail.errors import Exit, TemporaryError
from tests.support.pop3d import ROOT
from tests.support.unix_users import PASSWORD, Machine, alone, machine

REMOTE = "192.0.2.7"


@pytest.fixture(scope="module")
def unix() -> Iterator[Machine]:
    with machine() as made:
        yield made


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code as root in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def let_expire(name: str, date: str) -> None:
    with alone():
        subprocess.run(["usermod", "--expiredate", date, name], check=True)


class TestPam:
    def test_the_password_logs_in_and_nothing_else(self, unix: Machine) -> None:
        pam, name = Pam(unix.service), unix.one.name.encode()
        assert pam.authenticate(name, PASSWORD.encode(), REMOTE) == name
        for user, password in (
            (name, b"wrong"),
            (name, b""),
            (name, PASSWORD.encode() + b"\0"),
            (name, PASSWORD.encode() + b"\0x"),
            (name + b"\0x", PASSWORD.encode()),
            (name, b"x" * (MAX_PASSWORD + 1)),
            (b"no-such-user", PASSWORD.encode()),
            (b"no-such-user", b"wrong"),
            (b"", PASSWORD.encode()),
        ):
            assert pam.authenticate(user, password, REMOTE) is None

    def test_an_account_that_has_expired_is_refused(self, unix: Machine) -> None:
        let_expire(unix.two.name, "1970-01-02")
        try:
            assert Pam(unix.service).authenticate(unix.two.name.encode(), PASSWORD.encode(), REMOTE) is None
        finally:
            let_expire(unix.two.name, "")
        assert Pam(unix.service).authenticate(unix.two.name.encode(), PASSWORD.encode(), REMOTE)

    def test_the_modules_know_where_the_client_is(self, unix: Machine, tmp_path: Path) -> None:
        seen = tmp_path / "seen"
        script = tmp_path / "script"
        script.write_text(f'#!/bin/sh\necho "$PAM_RHOST $PAM_USER $PAM_SERVICE $PAM_TTY" >{seen}\ncat >>{seen}\n')
        script.chmod(0o755)
        service = Path(f"/etc/pam.d/{unix.service}-exec")
        service.write_text(f"auth required pam_exec.so expose_authtok {script}\naccount required pam_permit.so\n")
        try:
            assert is_configured(service.name)
            assert Pam(service.name).authenticate(b"anybody", b"their password", REMOTE) == b"anybody"
        finally:
            service.unlink()
        assert seen.read_bytes() == f"{REMOTE} anybody {service.name} pop3d\n".encode() + b"their password"

    @pytest.mark.parametrize("module", ["pam_no_such_module.so", "pam_debug.so auth=authinfo_unavail"])
    def test_what_pam_cannot_find_out_is_no_wrong_password(self, unix: Machine, module: str) -> None:
        service = Path(f"/etc/pam.d/{unix.service}-broken")
        service.write_text(f"auth required {module}\naccount required pam_permit.so\n")
        try:
            with pytest.raises(TemporaryError):
                Pam(service.name).authenticate(unix.one.name.encode(), PASSWORD.encode(), REMOTE)
        finally:
            service.unlink()

    def test_no_library_is_one_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("services.pop3d.system.pam.LIBRARY", "libno-such-library.so.0")
        with pytest.raises(Exit, match="libpam0g"):
            Pam("pop3d")


BECOME = """
import os, sys
from services.pop3d.system.privileges import become, close_all_but
uid, gid, mail = map(int, sys.argv[1:4])
kept, lost = os.open("/", os.O_RDONLY), os.open("/", os.O_RDONLY)
become(uid, mail, [gid, mail])
close_all_but([kept])
print(os.getresuid(), os.getresgid(), os.getgroups(), oct(os.umask(0)))
status = open("/proc/thread-self/status").read()
kinds = "NoNewPrivs", "CapEff", "CapPrm", "CapInh"
print([line.split()[1] for line in status.splitlines() if line.startswith(kinds)])
os.fstat(kept)
try:
    os.fstat(lost)
except OSError:
    print("closed")
for path in sys.argv[4:]:
    try:
        open(path, "r+").close()
        print("opened")
    except PermissionError:
        print("refused")
"""


class TestPrivileges:
    def test_a_user_and_no_way_back(self, unix: Machine, tmp_path: Path) -> None:
        one, two = unix.one, unix.two
        own, others = one.home / "mbox", two.home / "mbox"
        for path, user in ((own, one), (others, two)):
            path.write_text("")
            path.chmod(0o600)
            os.chown(path, user.uid, user.gid)
            path.parent.chmod(0o700)
        mail = 8
        result = python(BECOME, one.uid, one.gid, mail, own, others, "/etc/shadow")
        assert result.stdout.splitlines() == [
            f"{(one.uid,) * 3} {(mail,) * 3} {sorted([mail, one.gid])} 0o77",
            f"{['0' * 16, '0' * 16, '0' * 16, '1']}",
            "closed",
            "opened",
            "refused",
            "refused",
        ], result.stderr

    @pytest.mark.parametrize(("uid", "gid"), [(0, 1000), (1000, 0), (-1, 1000)])
    def test_root_is_nobody_to_become(self, unix: Machine, uid: int, gid: int) -> None:
        result = python(BECOME, uid, 0, gid)
        assert "cannot give up root" in result.stderr
        assert result.stdout == ""

    def test_who_is_not_root_ends(self, unix: Machine) -> None:
        # The import comes first: Python may be where only root can read it.
        code = BECOME.replace("uid, gid", f"os.setuid({unix.two.uid})\nuid, gid", 1)
        result = python(code, unix.one.uid, unix.one.gid, 8)
        assert "cannot give up root" in result.stderr
        assert result.stdout == ""
