"""A spool without room: what cannot be kept is refused, what was accepted leaves, and room alone brings all back."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone
from tests.support.gateway import ALICE, CAROL, MESSAGE, Client
from tests.support.gateway_process import Gateway, gateway_process
from tests.support.small_disk import unshare
from tests.support.smarthost import FakeSmarthost, serving
from tests.support.waiting import wait_until

SIZE, RESERVE = 12 * 2**20, 4 * 2**20
MOST = 200  # messages of BODY octets, which are more than the disk takes
BODY = b"0123456789abcdef" * 4000
ZONE = "$ORIGIN legacy.example.\n$TTL 60\n@ SOA ns h 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n"
MOUNT = 'mkdir -p "$0" && mount -t tmpfs -o size="$1" tmpfs "$0" && shift && exec "$@"'


class SmallSpool:
    """A gateway whose spool is a small file system that nobody else sees, but through /proc."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        gateway.settings |= {"reserve_bytes": RESERVE, "retry_min_seconds": 0.1, "retry_max_seconds": 0.2}
        gateway.wrapper = [*unshare(), "sh", "-c", MOUNT, str(gateway.spool.root), str(SIZE)]
        self.process = gateway.start()
        self.inside = Path(f"/proc/{self.process.pid}/root{gateway.spool.root}")

    def submit_until_full(self) -> int:
        """Submit messages to carol until there is no room; return how many were accepted."""
        with Client(("127.0.0.1", self.gateway.port())) as client:
            client.reply()
            client.say("EHLO test")
            for number in range(MOST):
                if not client.say(f"MAIL FROM:<{ALICE}>").startswith("250"):
                    return number
                assert client.say(f"RCPT TO:<{CAROL}>").startswith("250")
                assert client.say("DATA").startswith("354")
                lines = b"\r\n".join(BODY[at : at + 64] for at in range(0, len(BODY), 64))
                client.send(MESSAGE + b"%d\r\n" % number + lines + b"\r\n.\r\n")
                reply = client.reply()
                if not reply.startswith("250"):
                    assert reply.startswith("452 4.3.1")
                    return number
        raise AssertionError("the disk was never full")

    def says(self, start: str) -> bool:
        """Whether that is the reply to MAIL now."""
        with Client(("127.0.0.1", self.gateway.port())) as client:
            client.reply()
            client.say("EHLO test")
            return client.say(f"MAIL FROM:<{ALICE}>").startswith(start)

    def fill(self) -> None:
        """Take all room, as another program would."""
        with (self.inside / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65_536))

    def clear(self) -> None:
        """Give that room back."""
        (self.inside / "filler").unlink()


@pytest.fixture
def smarthost() -> Iterator[FakeSmarthost]:
    with serving(FakeSmarthost(reply=lambda _: "421 4.3.2 not now")) as server:
        yield server


@pytest.fixture
def spool(smarthost: FakeSmarthost) -> Iterator[SmallSpool]:
    with NameServer([parse_zone(ZONE)]) as server, gateway_process() as gateway:
        gateway.dns = server.address
        gateway.settings |= {"smarthost": f"127.0.0.1:{smarthost.port}", "smarthost_tls": "none"}
        yield SmallSpool(gateway)


def test_mail_beyond_the_reserve_is_refused_and_what_was_accepted_makes_room(
    smarthost: FakeSmarthost, spool: SmallSpool
) -> None:
    gateway = spool.gateway
    accepted = spool.submit_until_full()
    assert accepted > 10
    assert os.statvfs(spool.inside).f_bavail * os.statvfs(spool.inside).f_frsize > RESERVE // 2
    wait_until(lambda: "no mail is accepted" in gateway.page("/readyz")[1], 20)
    smarthost.reply = lambda _: None  # it is there again; each message has to be filed before it may leave
    wait_until(lambda: len(smarthost.messages) >= accepted, 60)
    wait_until(lambda: gateway.metric('stubmail_gateway_messages_total{state="finished"}') == accepted, 30)
    assert len(smarthost.messages) == len(set(smarthost.messages)) == accepted
    assert spool.says("250")
    wait_until(lambda: gateway.page("/readyz")[0] == 200, 20)


def test_a_disk_that_others_filled_is_waited_for(smarthost: FakeSmarthost, spool: SmallSpool) -> None:
    smarthost.reply = lambda _: None
    gateway = spool.gateway
    wait_until(lambda: gateway.page("/readyz")[0] == 200, 30)
    spool.fill()
    assert spool.says("452 4.3.1 ")
    spool.clear()
    assert spool.says("250")
    assert gateway.submit(CAROL).startswith("250")
    wait_until(lambda: len(smarthost.messages) == 1, 30)
    assert "Traceback" not in gateway.text()
