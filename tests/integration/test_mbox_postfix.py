"""A real Postfix appends to the mailbox file that the puller delivers to: nothing lost, nothing interleaved."""

import pwd
import shutil
import smtplib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubmail.mbox import Mbox
from tests.conftest import ROOT
from tests.support.mailbox_writers import message, name_of
from tests.support.postfix import Postfix, postfix
from tests.support.waiting import wait_until

USER = "nobody"
DOMAIN = "mx.alpha.example"
EACH = 200


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that Postfix's users reach, with a spool of mailboxes as /var/mail is one."""
    with tempfile.TemporaryDirectory(prefix="mbox", dir="/tmp") as directory:
        place = Path(directory)
        place.chmod(0o755)
        (place / "mail").mkdir()
        (place / "mail").chmod(0o1777)
        yield place


@pytest.fixture
def legacy(place: Path) -> Iterator[Postfix]:
    settings = {
        "mydestination": DOMAIN,
        "mail_spool_directory": str(place / "mail"),
        "mailbox_delivery_lock": "fcntl, dotlock",
        "local_recipient_maps": "",
        "local_header_rewrite_clients": "",  # it adds nothing but trace fields then
    }
    with postfix(place, **settings) as found:
        yield found


def content_of(stored: bytes) -> bytes:
    """A message without the fields that Postfix has put in front."""
    return stored[stored.index(b"Check: ") :]


def test_postfix_and_the_puller_deliver_into_one_file(place: Path, legacy: Postfix) -> None:
    mailbox = place / "mail" / USER
    mailbox.touch(mode=0o600)
    shutil.chown(mailbox, USER)
    command = [sys.executable, "-m", "tests.support.mailbox_writers", "deliver", str(mailbox), "p", str(EACH)]
    with smtplib.SMTP("127.0.0.1", legacy.port, timeout=60) as client:

        def send(numbers: range) -> None:
            for number in numbers:
                client.sendmail("a@a.example", [f"{USER}@{DOMAIN}"], message(f"x{number}"))

        send(range(1))
        wait_until(lambda: mailbox.stat().st_size, what="Postfix's first delivery")
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as puller:
            assert puller.stdout is not None
            send(range(1, EACH - 1))
            assert puller.stdout.readline(), "the puller delivers before the last message of Postfix comes"
            send(range(EACH - 1, EACH))
            puller.communicate(timeout=60)
        assert puller.returncode == 0
    deadline = time.monotonic() + 60
    while "Mail queue is empty" not in legacy.queue():
        assert time.monotonic() < deadline, legacy.queue() + legacy.log()
    snapshot = Mbox(mailbox).snapshot()
    names = [name_of(content_of(b"".join(snapshot.chunks(number)))) for number in range(len(snapshot))]
    assert Counter(names) == Counter(f"{prefix}{number}" for prefix in "px" for number in range(EACH)), legacy.log()
    order = "".join(name[0] for name in names)
    assert "xp" in order and "px" in order, "they did not meet"
    status = mailbox.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (pwd.getpwnam(USER).pw_uid, 0o600)
    assert [path.name for path in (place / "mail").iterdir()] == [USER]
