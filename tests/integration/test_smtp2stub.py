"""The gateway as its users run it: two processes, signals, mistakes in the configuration, and kill -9 under load."""

import contextlib
import json
import os
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from stubmail.address import Address
from stubmail.dns.publication import Service, entries, format_zone
from stubmail.keyring import Keyring
from stubmail.mbox import Mbox
from stubmail.testing.nameserver import NameServer
from stubmail.testing.zones import parse_zone
from tests.support.gateway import ALICE, BOB, MESSAGE, Client
from tests.support.gateway_process import LISTENING, REPOSITORY, Gateway, gateway_process, store_for, store_url
from tests.support.gpg import need
from tests.support.ports import free_port
from tests.support.smarthost import FakeSmarthost, serving
from tests.support.waiting import wait_until

TLS = REPOSITORY / "tests" / "data" / "tls"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with gateway_process() as found:
        yield found


def needs_swaks() -> str:
    program = shutil.which("swaks")
    if program is None:
        message = "swaks is missing: apt-get install swaks"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return program


def test_mail_for_a_legacy_domain_passes_through_both_processes(gateway: Gateway) -> None:
    zone = parse_zone("$ORIGIN legacy.example.\n$TTL 60\n@ SOA ns h 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n")
    with NameServer([zone]) as server, serving(FakeSmarthost()) as smarthost:
        gateway.dns = server.address
        gateway.settings |= {"smarthost": f"127.0.0.1:{smarthost.port}", "smarthost_tls": "none"}
        process = gateway.start()
        assert gateway.submit(Address("carol", "legacy.example")).startswith("250 2.0.0")
        wait_until(lambda: smarthost.messages, 30)
        wait_until(lambda: not gateway.spool.messages())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert smarthost.messages[0].endswith(b"\r\n\r\nThe text\r\n")
    assert "Traceback" not in gateway.text()


def test_a_refusal_comes_back_as_a_notice(gateway: Gateway) -> None:
    zone = parse_zone("$ORIGIN legacy.example.\n$TTL 60\n@ SOA ns h 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n")
    refusing = FakeSmarthost(reply=lambda line: "550 5.1.1 nobody" if line.lower().startswith("rcpt") else None)
    with NameServer([zone]) as server, serving(refusing) as smarthost:
        gateway.dns = server.address
        gateway.settings |= {"smarthost": f"127.0.0.1:{smarthost.port}", "smarthost_tls": "none"}
        gateway.start()
        gateway.submit(Address("carol", "legacy.example"))
        mbox = gateway.root / "alice.mbox"
        wait_until(mbox.exists, 30)
        wait_until(lambda: not gateway.spool.messages())
    [notice] = [b"".join(Mbox(mbox).snapshot().chunks(0))]
    assert b"550 5.1.1 nobody" in notice or b"5.1.1" in notice
    assert b"Subject: hello" in notice
    assert b"The text" not in notice


@pytest.mark.parametrize("offers", [[], ["DSN"]])
def test_who_asks_for_it_is_told_of_success(gateway: Gateway, offers: list[str]) -> None:
    zone = parse_zone("$ORIGIN legacy.example.\n$TTL 60\n@ SOA ns h 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n")
    with NameServer([zone]) as server, serving(FakeSmarthost(offers=offers)) as smarthost:
        gateway.dns = server.address
        gateway.settings |= {"smarthost": f"127.0.0.1:{smarthost.port}", "smarthost_tls": "none"}
        gateway.start()
        with smtplib.SMTP("127.0.0.1", gateway.port()) as client:
            wishes = ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;carol+2Bx@legacy.example"]
            client.sendmail(str(ALICE), "carol@legacy.example", MESSAGE, ["RET=FULL", "ENVID=QQ1"], wishes)
        wait_until(lambda: smarthost.messages, 30)
        wait_until(lambda: not gateway.spool.messages(), 30)
    mbox = gateway.root / "alice.mbox"
    asked = [line for line in smarthost.commands if "NOTIFY" in line or "ENVID" in line]
    if offers:
        assert asked == [
            f"mail FROM:<{ALICE}> RET=FULL ENVID=QQ1",
            f"rcpt TO:<carol@legacy.example> {' '.join(wishes)}",
        ]
        assert not mbox.exists()
        return
    assert asked == []
    [notice] = [b"".join(Mbox(mbox).snapshot().chunks(0))]
    for field in ("Original-Envelope-Id: QQ1", "Original-Recipient: rfc822; carol+x@legacy.example", "Action: relayed"):
        assert field.encode() in notice
    assert b"The text" not in notice


def test_who_asks_for_it_is_told_of_a_delay_once(gateway: Gateway) -> None:
    gateway.settings |= {"retry_min_seconds": 0.1, "retry_max_seconds": 0.2, "delay_notice_hours": 0.5 / 3600}
    gateway.start()
    with smtplib.SMTP("127.0.0.1", gateway.port()) as client:
        client.sendmail(str(ALICE), str(BOB), MESSAGE, [], ["NOTIFY=DELAY"])
    mbox = gateway.root / "alice.mbox"
    wait_until(lambda: mbox.exists() and len(Mbox(mbox).snapshot()), 30, "the notice")
    told = gateway.text().count("deferred to=bob@beta.example")
    wait_until(lambda: gateway.text().count("deferred to=bob@beta.example") > told + 2, 30)
    snapshot = Mbox(mbox).snapshot()
    assert len(snapshot) == 1
    notice = b"".join(snapshot.chunks(0))
    for text in (b"Subject: Your message is delayed", b"Action: delayed", b"Status: 4.", b"Will-Retry-Until: "):
        assert text in notice
    assert len(gateway.spool.messages()) == 1


def test_silent_dns_keeps_mail_in_the_queue(gateway: Gateway) -> None:
    with serving(FakeSmarthost()) as smarthost:
        gateway.settings |= {"smarthost": f"127.0.0.1:{smarthost.port}", "smarthost_tls": "none"}
        gateway.start()
        gateway.submit(BOB)
        wait_until(lambda: "deferred to=bob@beta.example" in gateway.text(), 30)
        assert smarthost.commands == []
    assert len(gateway.spool.messages()) == 1


def test_swaks_logs_in_over_tls(gateway: Gateway) -> None:
    swaks = needs_swaks()
    gateway.settings |= {"tls_cert": TLS / "server.pem", "tls_key": TLS / "server.key", "trust_loopback": False}
    gateway.start("--role", "receiver")
    common = [swaks, "--server", "127.0.0.1", "--port", str(gateway.port()), "--from", str(ALICE), "--to", str(BOB)]
    login = ["--auth-user", "alice@alpha.example", "--auth-password"]
    refused = subprocess.run(common, capture_output=True, text=True, timeout=60)
    assert "530 5.7.0" in refused.stdout
    wrong = subprocess.run(
        [*common, "--tls", "--auth", "PLAIN", *login, "x"], capture_output=True, text=True, timeout=60
    )
    assert "535 5.7.8" in wrong.stdout
    clear = subprocess.run([*common, "--auth", "PLAIN", *login, "secret"], capture_output=True, text=True, timeout=60)
    assert clear.returncode != 0
    for mechanism in ("PLAIN", "LOGIN"):
        done = subprocess.run(
            [*common, "--tls", "--auth", mechanism, *login, "secret", "--attach", "@/etc/hostname"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(gateway.spool.messages()) == 2
    assert all(stored.item.account == "alice" for stored in gateway.spool.messages())


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_curl_submits_over_tls(gateway: Gateway, tmp_path: Path, scheme: str) -> None:
    need("curl", "curl")
    gateway.settings |= {"tls_cert": TLS / "server.pem", "tls_key": TLS / "server.key", "trust_loopback": False}
    if scheme == "smtps":
        gateway.settings |= {"listen": "", "tls_listen": "127.0.0.1:0"}
    gateway.start("--role", "receiver")
    message = tmp_path / "message"
    message.write_bytes(MESSAGE + "grüße\r\n.\r\n".encode())
    envelope = ["--mail-from", str(ALICE), "--mail-rcpt", str(BOB), "--mail-rcpt", "carl@beta.example"]
    common = ["curl", "--silent", "--show-error", "--insecure", "--ssl-reqd", *envelope, "--upload-file", str(message)]
    url = ["--url", f"{scheme}://127.0.0.1:{gateway.port()}/laptop.example"]
    refused = subprocess.run([*common, *url], capture_output=True, text=True, timeout=60)
    assert "530" in refused.stderr
    done = subprocess.run([*common, *url, "--user", "alice:secret"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    [stored] = gateway.spool.messages()
    assert stored.content().endswith("The text\r\ngrüße\r\n.\r\n".encode())
    assert b"from laptop.example ([127.0.0.1])" in stored.content()
    assert b"with ESMTPSA id" in stored.content()


def test_smtplib_sends_what_is_beyond_ascii(gateway: Gateway) -> None:
    gateway.start("--role", "receiver")
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = str(ALICE), "jürgen@beta.example", "Grüße"
    message.set_content("grün\n")
    with smtplib.SMTP("127.0.0.1", gateway.port()) as client:
        client.send_message(message)
    [stored] = gateway.spool.messages()
    assert stored.item.utf8
    assert "Subject: Grüße\r\n".encode() in stored.content()
    assert b"with UTF8SMTP id" in stored.content()


def test_kill_9_of_the_receiver_under_load_loses_nothing_it_said_250_to(gateway: Gateway) -> None:
    process = gateway.start("--role", "receiver")
    port = gateway.port()
    accepted: list[str] = []

    def load(number: int) -> None:
        with contextlib.suppress(OSError, AssertionError), Client(("127.0.0.1", port)) as client:
            client.reply()
            client.say("EHLO load")
            for message in range(10_000):
                text = MESSAGE + b"%d %d\r\n" % (number, message)
                reply = client.submit(text)
                if not reply.startswith("250"):
                    return
                accepted.append(reply.rpartition(" ")[2])

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) > 400, 60)
    process.kill()
    for thread in threads:
        thread.join(30)
    process.wait()
    gateway.start("--role", "receiver")
    wait_until(lambda: len(LISTENING.findall(gateway.text())) == 2, 30)
    stored = {each.item.id: each.content() for each in gateway.spool.messages()}
    assert set(accepted) <= set(stored)
    assert len(stored) <= len(accepted) + len(threads)
    assert not [path for path in gateway.spool.incoming.iterdir() if path.name.startswith(".")]


def refused(gateway: Gateway) -> bool:
    """Whether somebody who connects now is told that the gateway is about to end."""
    with Client(("127.0.0.1", gateway.port())) as client:
        greeting = client.reply()
    assert greeting.startswith(("220 ", "421 4.3.2 "))
    return greeting.startswith("421")


def test_sigterm_lets_a_message_under_way_come_to_its_end(gateway: Gateway) -> None:
    process = gateway.start("--role", "receiver")
    with Client(("127.0.0.1", gateway.port())) as client:
        client.reply()
        client.say("EHLO slow")
        client.say(f"MAIL FROM:<{ALICE}>")
        client.say(f"RCPT TO:<{BOB}>")
        assert client.say("DATA").startswith("354")
        client.send(MESSAGE)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: refused(gateway), 20)
        client.send(b"the rest\r\n.\r\n")
        assert client.reply().startswith("250 2.0.0")
        assert client.reply().startswith("421 4.3.2")
    assert process.wait(20) == 0
    assert gateway.spool.messages()[0].content().endswith(b"the rest\r\n")


def test_sighup_reads_the_users_anew(gateway: Gateway) -> None:
    gateway.settings["allow_plain_auth"] = True
    process = gateway.start("--role", "receiver")
    with smtplib.SMTP("127.0.0.1", gateway.port()) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("dora", "secret")
        gateway.add_user("dora")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded users=2" in gateway.text(), 30)
        client.login("dora", "secret")
        gateway.users.write_text("rubbish [")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "refused reason=" in gateway.text(), 30)
    with smtplib.SMTP("127.0.0.1", gateway.port()) as client:
        client.login("dora", "secret")


def test_who_reads_that_it_listens_may_send_signals(gateway: Gateway) -> None:
    program = """
import os, signal
from services.smtp2stub.__main__ import main
from services.smtp2stub.receiver import Receiver
listen = Receiver._listen
async def and_be_told(self, acceptance):
    servers = await listen(self, acceptance)
    for number in (signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
    return servers
Receiver._listen = and_be_told
main()
"""
    _, _, _, *arguments = gateway.command("--role", "receiver")
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "reloaded users=1" in done.stderr


def test_sighup_reads_the_policies_anew(gateway: Gateway) -> None:
    policies = gateway.root / "policies"
    policies.write_text("")
    with serving(FakeSmarthost()) as smarthost:
        smart = {"smarthost": f"127.0.0.1:{smarthost.port}", "smarthost_tls": "none"}
        gateway.settings |= smart | {"policies": policies, "retry_min_seconds": 0.2}
        gateway.start()
        gateway.submit(BOB)
        wait_until(lambda: "deferred to=bob@beta.example" in gateway.text(), 30)
        courier = gateway.child("courier")
        policies.write_text("bob@beta.example sometimes")
        os.kill(courier, signal.SIGHUP)
        wait_until(lambda: "line 1: 'sometimes' must be one of" in gateway.text(), 30)
        assert smarthost.messages == []
        policies.write_text("bob@beta.example never")
        os.kill(courier, signal.SIGHUP)
        wait_until(lambda: smarthost.messages, 30)


def test_without_a_configuration_there_is_a_sample(gateway: Gateway) -> None:
    command = [sys.executable, "-m", "services.smtp2stub", "--config", str(gateway.root / "none.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert done.returncode == os.EX_CONFIG
    assert "[smtp2stub]" in done.stdout
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value", "status", "words"),
    [
        ("polcy", "prefer", os.EX_CONFIG, "unknown setting 'polcy'"),
        ("policy", "maybe", os.EX_CONFIG, "require, prefer, never"),
        ("listen", "nowhere", os.EX_CONFIG, "HOST:PORT"),
        ("policies", "/nonexistent", os.EX_CONFIG, "/nonexistent"),
        ("tls_cert", "/nonexistent", os.EX_CONFIG, "both"),
        ("users", "/nonexistent", os.EX_CONFIG, "/nonexistent"),
        ("spool", "/proc/spool", None, "/proc/spool"),
        ("smarthost_tls", "perhaps", os.EX_CONFIG, "starttls"),
        ("store", "ftp://x/y", os.EX_CONFIG, "store must be"),
        ("lmtp_listen", "0.0.0.0:2424", os.EX_CONFIG, "on loopback"),
        ("recipient_limit", 2001, os.EX_CONFIG, "2000 or less"),
        ("delay_notice_hours", -1, os.EX_CONFIG, "0 or more"),
    ],
)
def test_mistakes_are_one_sentence(
    gateway: Gateway, key: str, value: str | int, status: int | None, words: str
) -> None:
    gateway.settings[key] = value
    done = gateway.run()
    assert done.returncode == status if status is not None else done.returncode in (os.EX_OSERR, os.EX_NOPERM)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_ends_both_processes(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway.settings["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        done = gateway.run()
    assert done.returncode == os.EX_UNAVAILABLE
    assert "cannot listen on" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_gateway_leaves_the_spool_alone(gateway: Gateway) -> None:
    gateway.start()
    gateway.port()
    wait_until(lambda: "started waiting=0" in gateway.text(), 30)
    done = gateway.run("--role", "courier")
    assert done.returncode == os.EX_UNAVAILABLE
    assert "another courier works on" in done.stderr


def test_check_tries_everything(gateway: Gateway) -> None:
    home = gateway.root / "g"
    Keyring(home).generate(ALICE, "Alice")
    service = Service("post.alpha.example", "keys.alpha.example", "post.alpha.example")
    published = format_zone(entries("alpha.example", service))
    head = "$ORIGIN alpha.example.\n$TTL 60\n@ SOA ns h 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n"
    zone = parse_zone(head + published)
    with NameServer([zone]) as server, serving(FakeSmarthost()) as smarthost, store_for(ALICE, home) as store:
        gateway.dns = server.address
        gateway.settings |= {
            "store": store_url(store),
            "smarthost": f"127.0.0.1:{smarthost.port}",
            "smarthost_tls": "none",
        }
        done = gateway.run("--check")
        assert done.returncode == 0, done.stderr
        for words in ("spool:", "user alice: alice@alpha.example, key ", "smarthost:", "listen:"):
            assert words in done.stdout
        assert f"store: {gateway.settings['store']} takes mail from {ALICE}\n" in done.stdout
        store.allow([])
        store.signal(signal.SIGHUP)
        store.wait_for("reloaded")
        done = gateway.run("--check")
        assert done.returncode == os.EX_NOPERM
        assert (
            f"it takes no mail from {ALICE}; run `post_manager accounts add NAME --address {ALICE} --f" in done.stderr
        )
        store.close()
        done = gateway.run("--check")
        assert done.returncode == os.EX_UNAVAILABLE
        assert f"cannot reach 127.0.0.1 port {store.http}" in done.stderr
        assert "is post_manager running there" in done.stderr
    gateway.add_user("bert", gnupghome=gateway.root / "nokey")
    done = gateway.run("--check")
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "bert" in done.stderr
    assert "cannot reach the smarthost" in done.stderr


def child_of(process: "subprocess.Popen[bytes]", role: str) -> int:
    """The pid of one of the two processes."""

    def find() -> list[int]:
        found = []
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                if role.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        return found

    return int(wait_until(find, 30)[0])


@pytest.mark.parametrize("role", ["receiver", "courier"])
def test_health_and_metrics_are_those_of_both_processes_and_outlive_either(gateway: Gateway, role: str) -> None:
    process = gateway.start()
    wait_until(lambda: gateway.page("/readyz")[0] == 200, 30)
    gateway.submit(BOB)
    deferred = 'stubmail_gateway_recipients_total{outcome="deferred",route="none"}'
    wait_until(lambda: gateway.metric(deferred) >= 1, 30)  # of the courier; below, of the receiver
    assert gateway.metric('stubmail_gateway_messages_total{state="accepted"}') == 1
    assert gateway.page("/livez")[0] == 200
    pid = child_of(process, role)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: role in json.loads(gateway.page("/readyz")[1] or "{}").get("checks", {}), 30)
    wait_until(lambda: child_of(process, role) != pid and gateway.page("/readyz")[0] == 200, 30)
    assert gateway.metric('stubmail_gateway_messages_total{state="accepted"}') == 1
    assert gateway.metric(deferred) >= 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_while_it_drains_the_gateway_is_alive_and_not_ready(gateway: Gateway) -> None:
    process = gateway.start()
    wait_until(lambda: gateway.page("/readyz")[0] == 200, 30)
    with Client(("127.0.0.1", gateway.port())) as client:
        client.reply()
        client.say("EHLO slow")
        client.say(f"MAIL FROM:<{ALICE}>")
        client.say(f"RCPT TO:<{BOB}>")
        client.say("DATA")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: refused(gateway), 20)
        wait_until(lambda: "about to end" in gateway.page("/readyz")[1], 20)
        wait_until(lambda: gateway.page("/livez")[0] == 200, 20)  # the courier may take a question with it
        client.send(MESSAGE + b".\r\n")
        assert client.reply().startswith("250 2.0.0")
    assert process.wait(20) == 0
    assert len(gateway.spool.messages()) == 1


def test_the_health_check_of_containers_wants_both_processes(gateway: Gateway) -> None:
    gateway.settings["admin_listen"] = f"127.0.0.1:{free_port()}"
    gateway.settings["listen"] = f"127.0.0.1:{free_port()}"
    environ = os.environ | {"STUB_CONF": str(gateway.root / "stub.conf")}
    command = [sys.executable, "-m", "stubmail.health", "smtp2stub"]

    def healthy() -> bool:
        return subprocess.run(command, env=environ, capture_output=True, timeout=60).returncode == 0

    alone = gateway.start("--role", "receiver")
    gateway.port()
    assert not healthy()
    alone.send_signal(signal.SIGTERM)
    assert alone.wait(20) == 0
    gateway.start()
    wait_until(healthy, 30)


def test_the_admin_port_in_use_is_one_sentence(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway.settings["admin_listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments in ((), ("--role", "courier"), ("--role", "receiver"), ("--check",)):
            done = gateway.run(*arguments)
            assert done.returncode == os.EX_UNAVAILABLE
            assert f"cannot listen on {gateway.settings['admin_listen']}" in done.stderr


def test_sighup_reads_the_certificate_anew(gateway: Gateway) -> None:
    renewed = REPOSITORY / "tests" / "data" / "pop3d"
    cert, key = gateway.root / "cert.pem", gateway.root / "key.pem"
    shutil.copy(TLS / "server.pem", cert)
    shutil.copy(TLS / "server.key", key)
    gateway.settings |= {"tls_cert": cert, "tls_key": key}
    process = gateway.start("--role", "receiver")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # which one it is, is looked at

    def shown() -> bytes:
        with smtplib.SMTP("127.0.0.1", gateway.port(), timeout=20) as client:
            client.starttls(context=context)
            assert isinstance(client.sock, ssl.SSLSocket)
            return client.sock.getpeercert(binary_form=True) or b""

    with smtplib.SMTP("127.0.0.1", gateway.port(), timeout=20) as old:
        old.starttls(context=context)
        before = shown()
        shutil.copy(renewed / "renewed.cert.pem", cert)
        process.send_signal(signal.SIGHUP)  # the key does not fit: the old pair stays
        wait_until(lambda: "refused reason=" in gateway.text(), 30)
        assert shown() == before
        shutil.copy(renewed / "renewed.key.pem", key)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded users=1" in gateway.text(), 30)
        assert shown() == ssl.PEM_cert_to_DER_cert(cert.read_text()) != before
        assert old.noop()[0] == 250


def test_a_courier_that_is_killed_is_started_again(gateway: Gateway) -> None:
    process = gateway.start()
    gateway.port()
    wait_until(lambda: "started waiting=0" in gateway.text(), 30)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    couriers = [pid for pid in children if b"courier" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(couriers[0]), signal.SIGKILL)
    wait_until(lambda: gateway.text().count("started waiting=0") == 2, 30)
    gateway.submit(BOB)
    wait_until(lambda: "deferred to=bob@beta.example" in gateway.text(), 30)
    process.kill()
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 20)
