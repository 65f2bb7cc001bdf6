"""The way out to domains without stub mail: a real Postfix over verified TLS, and a smarthost that dies half-way."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from services.smtp2stub.dispatch import RELAYS
from stubmail.address import Address
from stubmail.mbox import Mbox
from stubmail.queue import State
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone
from tests.support.gateway import CAROL, MESSAGE, Client
from tests.support.gateway_process import REPOSITORY, Gateway, gateway_process
from tests.support.postfix import Postfix, postfix
from tests.support.smarthost import FakeSmarthost, serving
from tests.support.waiting import wait_until

TLS = REPOSITORY / "tests" / "data" / "pop3d"  # for localhost, its own authority
NOBODY, LATER = Address("nobody", CAROL.domain), Address("later", CAROL.domain)
ZONE = "$ORIGIN legacy.example.\n$TTL 60\n@ SOA ns h 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n"
REPLIES = "inline:{ { nobody@legacy.example = 550 5.1.1 nobody here }, { later@legacy.example = 451 4.7.1 come back } }"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with NameServer([parse_zone(ZONE)]) as server, gateway_process() as found:
        found.dns = server.address
        found.settings |= {"retry_min_seconds": 0.1, "retry_max_seconds": 0.2}
        yield found


@pytest.fixture
def server(gateway: Gateway) -> Iterator[Postfix]:
    """A Postfix that takes mail over TLS only, and not for everybody."""
    gateway.root.chmod(0o755)
    for name in ("cert", "key"):
        shutil.copy(TLS / f"localhost.{name}.pem", gateway.root / f"{name}.pem")
    settings = {
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_cert_file": str(gateway.root / "cert.pem"),
        "smtpd_tls_key_file": str(gateway.root / "key.pem"),
        "smtpd_recipient_restrictions": f"check_recipient_access {REPLIES}, permit_mynetworks, reject",
    }
    with postfix(gateway.root, **settings) as found:
        gateway.settings |= {"smarthost": f"localhost:{found.port}", "smarthost_tls": "starttls"}
        yield found


def notices(gateway: Gateway) -> bytes:
    path = gateway.root / "alice.mbox"
    return b"".join(Mbox(path).snapshot().chunks(0)) if path.exists() else b""


def test_postfix_takes_refuses_and_defers_each_recipient_for_himself(gateway: Gateway, server: Postfix) -> None:
    gateway.settings["smarthost_ca"] = TLS / "localhost.cert.pem"
    gateway.start()
    assert gateway.submit(CAROL, NOBODY, LATER).startswith("250")
    [stored] = gateway.spool.messages()
    wait_until(lambda: gateway.spool.progress(stored.item).attempts >= 3, 60)
    assert [outcome.state for outcome in gateway.spool.progress(stored.item).outcomes] == [
        State.DONE,
        State.FAILED,
        State.WAITING,
    ]
    assert gateway.spool.progress(stored.item).outcomes[2].code == "4.7.1"
    wait_until(lambda: b"nobody@legacy.example" in notices(gateway), 30)
    assert b"Status: 5.1.1" in notices(gateway)
    assert b"nobody here" in notices(gateway)
    assert b"The text" not in notices(gateway)
    wait_until(lambda: "to=<carol@legacy.example>" in server.log(), 30)
    assert server.log().count("to=<carol@legacy.example>, relay=") == 1  # and not again with each attempt for later


def test_a_certificate_that_nobody_vouches_for_gets_no_mail(gateway: Gateway, server: Postfix) -> None:
    gateway.start()
    gateway.submit(CAROL)
    wait_until(lambda: "certificate verify failed" in gateway.text(), 60)
    assert len(gateway.spool.messages()) == 1
    assert "carol" not in server.log()


def test_a_smarthost_that_dies_half_way_gets_the_message_once(gateway: Gateway, tmp_path: Path) -> None:
    text = MESSAGE + b"0123456789abcdef\r\n" * 100_000
    with serving(FakeSmarthost(break_after=50_000)) as smarthost:
        gateway.settings |= {"smarthost": f"127.0.0.1:{smarthost.port}", "smarthost_tls": "none"}
        gateway.start()
        assert gateway.submit(CAROL, message=text).startswith("250")
        wait_until(lambda: "deferred to=carol@legacy.example via=smarthost" in gateway.text(), 60)
        smarthost.break_after = None
        wait_until(lambda: not gateway.spool.messages(), 60)
    assert len(smarthost.messages) == 1
    assert smarthost.messages[0].endswith(text.partition(b"\r\n\r\n")[2])
    assert notices(gateway) == b""


def reaches(count: Callable[[], int], number: int) -> bool:
    return count() >= number


def test_kill_9_of_the_courier_repeats_at_most_what_was_on_its_way(gateway: Gateway) -> None:
    messages, kills = 300, 3
    with serving(FakeSmarthost()) as smarthost:
        gateway.settings |= {"smarthost": f"127.0.0.1:{smarthost.port}", "smarthost_tls": "none"}
        gateway.start()
        with Client(("127.0.0.1", gateway.port())) as client:
            client.reply()
            client.say("EHLO load")
            for number in range(messages):
                assert client.submit(MESSAGE + b"%d\r\n" % number, str(CAROL)).startswith("250")
        for kill in range(1, kills + 1):
            relayed = kill * messages // (kills + 1)
            wait_until(partial(reaches, lambda: len(smarthost.messages), relayed), 60)
            os.kill(gateway.child("courier"), signal.SIGKILL)
            wait_until(partial(reaches, lambda: gateway.text().count("courier info - started"), kill + 1), 60)
        wait_until(lambda: not gateway.spool.messages(), 60)
    numbers = Counter(int(text.splitlines()[-1]) for text in smarthost.messages)
    assert set(numbers) == set(range(messages))
    assert len(smarthost.messages) <= messages + kills * RELAYS
    assert gateway.spool.filed() == [] == gateway.spool.arrivals()
