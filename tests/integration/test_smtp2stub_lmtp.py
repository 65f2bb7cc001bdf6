"""The domain's own mail server hands single domains to the gateway over LMTP: a real Postfix, and swaks."""

import re
import shutil
import smtplib
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gateway import ALICE, BOB, MESSAGE
from tests.support.gateway_process import Gateway, gateway_process
from tests.support.gpg import need
from tests.support.postfix import Postfix, postfix
from tests.support.waiting import wait_until


@dataclass
class House:
    """A Postfix, and the gateway beside it."""

    gateway: Gateway
    postfix: Postfix

    def submit(self, message: bytes, mail_from: str, recipients: list[str]) -> None:
        """Send by way of Postfix, as alice's mail program would."""
        with smtplib.SMTP("127.0.0.1", self.postfix.port, timeout=20) as client:
            client.sendmail(mail_from, recipients, message)

    def gone(self) -> bool:
        """Whether Postfix has nothing left to do."""
        return "Mail queue is empty" in self.postfix.queue()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with gateway_process() as found:
        yield found


@pytest.fixture
def house(gateway: Gateway) -> Iterator[House]:
    """As docs/lmtp.md says: a directory that is setgid for Postfix's group, and a transport map."""
    need("postfix", "postfix")
    gateway.root.chmod(0o755)
    place = gateway.root / "run"
    place.mkdir()
    shutil.chown(place, group="postfix")
    place.chmod(0o2750)
    gateway.settings["lmtp_listen"] = place / "lmtp"
    maps = f"inline:{{ {BOB.domain}=lmtp:unix:{place / 'lmtp'}, {{{ALICE.domain} = error:5.1.1 no such user}} }}"
    settings = {"transport_maps": maps, "myorigin": ALICE.domain, "smtpd_reject_unlisted_recipient": "no"}
    with postfix(gateway.root, **settings) as server:
        yield House(gateway, server)


def start(gateway: Gateway) -> Path:
    gateway.start("--role", "receiver")
    path = Path(str(gateway.settings["lmtp_listen"]))
    wait_until(path.is_socket, 30, "the socket")
    wait_until(lambda: f"listening lmtp={path}" in gateway.text(), 30)
    return path


def test_postfix_hands_over_one_domain_and_keeps_the_others(house: House) -> None:
    path = start(house.gateway)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    house.submit(MESSAGE + b"..\r\n", str(ALICE), [str(BOB), "carl@beta.example", "dora@legacy.example"])
    [stored] = wait_until(house.gateway.spool.messages, 30)
    wait_until(house.gone, 30)
    assert [str(each.address) for each in stored.item.recipients] == [str(BOB), "carl@beta.example"]
    assert (stored.item.account, stored.item.mail_from, stored.item.sender) == ("alice", ALICE, ALICE)
    content = stored.content()
    assert b"with LMTP id" in content
    assert content.endswith(b"The text\r\n..\r\n")
    # What Postfix logs, another of its processes writes.
    wait_until(lambda: house.postfix.log().count("status=sent (250 2.0.0 accepted as") >= 2)
    wait_until(lambda: "to=<dora@legacy.example>, relay=none" in house.postfix.log())
    assert house.postfix.log().count("status=sent (250 2.0.0 accepted as") == 2


def test_wishes_for_notices_pass_through_postfix(house: House) -> None:
    start(house.gateway)
    with smtplib.SMTP("127.0.0.1", house.postfix.port, timeout=20) as client:
        client.ehlo()
        client.mail(str(ALICE), ["RET=HDRS", "ENVID=QQ314159"])
        client.rcpt(str(BOB), ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;bobby@gamma.example"])
        client.data(MESSAGE)
    [stored] = wait_until(house.gateway.spool.messages, 30)
    assert (stored.item.ret, stored.item.envid) == ("HDRS", "QQ314159")
    [bob] = stored.item.recipients
    assert (bob.notify, bob.original) == ("SUCCESS,DELAY", "rfc822;bobby@gamma.example")


@pytest.mark.parametrize(
    ("mail_from", "author"), [("eve@elsewhere.example", ALICE), (str(ALICE), "eve@elsewhere.example")]
)
def test_what_is_not_an_account_s_comes_back(house: House, mail_from: str, author: str) -> None:
    start(house.gateway)
    house.submit(MESSAGE.replace(str(ALICE).encode(), str(author).encode()), mail_from, [str(BOB)])
    wait_until(lambda: "status=bounced" in house.postfix.log(), 30)
    assert "550 5.7.1 eve@elsewhere.example" in house.postfix.log()
    wait_until(house.gone, 30)
    assert house.gateway.spool.messages() == []


@pytest.mark.parametrize("with_account", [False, True])
def test_postfix_s_own_bounces_need_an_account(house: House, with_account: bool) -> None:
    if with_account:
        house.gateway.add_user("mailer-daemon")
    start(house.gateway)
    house.submit(MESSAGE.replace(str(ALICE).encode(), str(BOB).encode()), str(BOB), ["nobody@alpha.example"])
    wait_until(lambda: f"to=<{BOB}>" in house.postfix.log(), 30)
    wait_until(house.gone, 30)
    assert [stored.item.account for stored in house.gateway.spool.messages()] == ["mailer-daemon"] * with_account
    assert ("550 5.7.1 MAILER-DAEMON@alpha.example, in From" in house.postfix.log()) is not with_account


def test_while_the_gateway_is_away_mail_waits_at_postfix(house: House) -> None:
    house.submit(MESSAGE, str(ALICE), [str(BOB)])
    wait_until(lambda: "status=deferred" in house.postfix.log(), 30)
    start(house.gateway)
    wait_until(house.gateway.spool.messages, 30)
    wait_until(house.gone, 30)


def test_a_receiver_that_was_killed_finds_its_socket_again(gateway: Gateway) -> None:
    need("swaks", "swaks")
    gateway.settings["lmtp_listen"] = gateway.root / "lmtp"
    start(gateway)
    gateway.processes[0].kill()
    gateway.processes[0].wait()
    gateway.start("--role", "receiver")
    wait_until(lambda: gateway.text().count("listening lmtp=") == 2, 30)
    common = ["swaks", "--protocol", "LMTP", "--socket", str(gateway.root / "lmtp"), "--from", str(ALICE)]
    done = subprocess.run([*common, "--to", f"{BOB},carl@beta.example"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("250 2.0.0 accepted as") == 2
    [stored] = gateway.spool.messages()
    assert b"\r\n\tby alpha.example with LMTP id" in stored.content()
    refused = subprocess.run(
        [*common, "--to", str(BOB), "--header", "From: eve@elsewhere.example"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "550 5.7.1" in refused.stdout


def test_lmtp_over_tcp(gateway: Gateway) -> None:
    need("swaks", "swaks")
    gateway.settings["lmtp_listen"] = "127.0.0.1:0"
    gateway.start("--role", "receiver")
    [port] = wait_until(lambda: re.findall(r"listening lmtp=127\.0\.0\.1:(\d+)", gateway.text()), 30)
    common = ["swaks", "--protocol", "LMTP", "--server", "127.0.0.1", "--port", port, "--from", str(ALICE)]
    done = subprocess.run([*common, "--to", str(BOB)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    [stored] = gateway.spool.messages()
    assert b" ([127.0.0.1])\r\n\tby alpha.example with LMTP id" in stored.content()


def test_lmtp_is_not_for_other_machines(gateway: Gateway) -> None:
    gateway.settings["lmtp_listen"] = "0.0.0.0:2424"
    done = gateway.run("--check")
    assert done.returncode != 0
    assert "loopback" in done.stderr
