"""The SMTP dialog over loopback: what strangers, mail programs and attackers say, and what they hear."""

import base64
import contextlib
import re
import ssl
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from services.smtp2stub import connection, session
from services.smtp2stub.connection import MAX_ERRORS
from services.smtp2stub.settings import Smtp2stub
from stubmail.address import Address
from tests.support.gateway import ALICE, MESSAGE, Client, Gateway, gateway
from tests.support.waiting import wait_until

TLS = Path(__file__).parent.parent / "data" / "tls"
OPTIONS = Smtp2stub(users=Path("unused"), timeout_seconds=20, size_limit=100_000)
STRANGER = replace(OPTIONS, trust_loopback=False)


def plain(name: str, password: str, act_as: str = "") -> str:
    return base64.b64encode(f"{act_as}\0{name}\0{password}".encode()).decode()


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    return context


def client_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path, OPTIONS) as found:
        yield found


@pytest.fixture
def strange(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway to which loopback is as strange as the Internet, with passwords in the clear."""
    with gateway(tmp_path, replace(STRANGER, allow_plain_auth=True)) as found:
        yield found


def test_a_message_is_accepted_with_what_it_lacked(local: Gateway) -> None:
    with local.hello() as client:
        reply = client.submit(MESSAGE, "bob@beta.example", "carol@legacy.example", "bob@beta.example")
        assert client.say("QUIT").startswith("221 2.0.0")
    [(item, content)] = local.messages()
    assert reply == f"250 2.0.0 accepted as {item.id}"
    assert (item.account, item.mail_from, item.sender) == ("alice", ALICE, ALICE)
    assert [str(recipient.address) for recipient in item.recipients] == ["bob@beta.example", "carol@legacy.example"]
    assert len({recipient.post_id for recipient in item.recipients}) == 2
    message = message_from_bytes(content, policy=policy.SMTP)
    assert f"by gate.alpha.example with ESMTP id {item.id}" in " ".join(message["Received"].split())
    assert message["Date"]
    assert message["Message-ID"]
    assert content.endswith(b"\r\n\r\nThe text\r\n")


def test_ehlo_offers_what_there_is(local: Gateway) -> None:
    with local.connect() as client:
        assert client.say("EHLO me").split("\n") == [
            "250-gate.alpha.example",
            "250-SIZE 100000",
            "250-8BITMIME",
            "250-SMTPUTF8",
            "250-PIPELINING",
            "250-ENHANCEDSTATUSCODES",
            "250 DSN",
        ]


def test_a_whole_transaction_may_come_at_once(local: Gateway) -> None:
    with local.connect() as client:
        one = b"MAIL FROM:<alice@alpha.example>\r\nRCPT TO:<bob@beta.example>\r\nDATA\r\n" + MESSAGE + b".\r\n"
        client.send(b"EHLO me\r\n" + one + one + b"NOOP\r\nQUIT\r\n")
        codes = [client.reply()[:3] for _ in range(11)]
        assert codes == ["250", "250", "250", "354", "250", "250", "250", "354", "250", "250", "221"]
    assert len(local.messages()) == 2


@pytest.mark.parametrize(
    ("mail_from", "header_from"),
    [
        ("eve@elsewhere.example", "eve@elsewhere.example"),
        ("eve@alpha.example", "eve@alpha.example"),
        ("alice@alpha.example.evil.example", "alice@alpha.example"),
        ("alice@beta.example", "alice@alpha.example"),
    ],
)
def test_loopback_may_send_from_accounts_only(local: Gateway, mail_from: str, header_from: str) -> None:
    with local.hello() as client:
        assert client.say(f"MAIL FROM:<{mail_from}>").startswith("550 5.7.1")
        assert client.say("RCPT TO:<bob@beta.example>").startswith("503 5.5.1")
        assert client.say("DATA").startswith("503 5.5.1")
    assert local.messages() == []


@pytest.mark.parametrize("recipient", ["x@elsewhere.example", "bob@beta.example", "alice@alpha.example", "postmaster"])
def test_strangers_send_nothing_to_nobody(strange: Gateway, recipient: str) -> None:
    with strange.hello() as client:
        for sender in ("alice@alpha.example", "eve@elsewhere.example", ""):
            assert client.say(f"MAIL FROM:<{sender}>").startswith("530 5.7.0")
        assert client.say(f"RCPT TO:<{recipient}>").startswith("503")
        assert client.say("DATA").startswith("503")
    assert strange.messages() == []


def test_headers_must_be_the_account_s_as_well(local: Gateway) -> None:
    with local.hello() as client:
        forged = b"From: mallory@alpha.example\r\n\r\nhi\r\n"
        assert client.submit(forged).startswith("550 5.7.1")
        assert client.submit(b"From: boss@elsewhere.example\r\n\r\nhi\r\n").startswith("550 5.7.1")
        assert client.submit(b"Subject: none\r\n\r\nhi\r\n").startswith("550 5.6.0")
        assert client.submit(b"hi, no header at all\r\n").startswith("550 5.6.0")
        assert client.submit(b"").startswith("550 5.6.0")
        assert client.submit().startswith("250")
    assert len(local.messages()) == 1


@pytest.mark.parametrize("name", ["alice", "ALICE", "alice@alpha.example"])
def test_plain_login(strange: Gateway, name: str) -> None:
    with strange.hello() as client:
        assert client.say("AUTH PLAIN " + plain(name, "wonderland")).startswith("235 2.7.0")
        assert client.say("AUTH PLAIN " + plain(name, "wonderland")).startswith("503 5.5.1")
        assert client.submit().startswith("250")
        assert client.say("MAIL FROM:<mallory@alpha.example>").startswith("550 5.7.1")
    [(item, content)] = strange.messages()
    assert item.account == "alice"
    assert b"with ESMTPA id" in content


@pytest.mark.parametrize(("name", "act_as"), [("alice@alpha.example", "alice"), ("alice", "Alice@Alpha.example")])
def test_an_account_may_act_as_itself_by_either_of_its_names(strange: Gateway, name: str, act_as: str) -> None:
    with strange.hello() as client:
        assert client.say("AUTH PLAIN " + plain(name, "wonderland", act_as)).startswith("235 2.7.0")


def test_login_in_steps(strange: Gateway) -> None:
    with strange.hello() as client:
        assert client.say("auth login") == "334 VXNlcm5hbWU6"
        assert client.say(base64.b64encode(b"alice").decode()) == "334 UGFzc3dvcmQ6"
        assert client.say(base64.b64encode(b"wonderland").decode()).startswith("235")
    with strange.hello() as client:
        assert client.say("AUTH PLAIN") == "334 "
        assert client.say(plain("alice", "wonderland")).startswith("235")
    with strange.hello() as client:
        assert client.say("AUTH LOGIN YWxpY2U=") == "334 UGFzc3dvcmQ6"
        assert client.say("*").startswith("501 5.7.0")
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("530")


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("AUTH PLAIN " + plain("alice", "wrong"), "535 5.7.8"),
        ("AUTH PLAIN " + plain("nobody", "wonderland"), "535 5.7.8"),
        ("AUTH PLAIN " + plain("alice", "wonderland", act_as="mallory"), "535 5.7.8 nobody may act as somebody else"),
        ("AUTH PLAIN " + plain("alice", "wonderland", act_as="nobody"), "535 5.7.8 nobody may act as somebody else"),
        ("AUTH PLAIN " + plain("alice", "wrong", act_as="mallory"), "535 5.7.8 the name or the password"),
        ("AUTH PLAIN !!!", "501 5.5.2"),
        ("AUTH PLAIN =", "501 5.5.2"),
        ("AUTH PLAIN " + base64.b64encode(b"alice").decode(), "501 5.5.2"),
        ("AUTH PLAIN " + base64.b64encode(b"\0\xff\0\xff").decode(), "535 5.7.8"),
        ("AUTH CRAM-MD5", "504 5.5.4"),
        ("AUTH", "504 5.5.4"),
    ],
)
def test_logins_that_fail(strange: Gateway, command: str, reply: str) -> None:
    with strange.hello() as client:
        assert client.say(command).startswith(reply)
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("530")


def test_who_guesses_passwords_is_hung_up_on(strange: Gateway) -> None:
    with strange.hello() as client:
        for _ in range(3):
            assert client.say("AUTH PLAIN " + plain("alice", "guess")).startswith("535")
        assert client.reply().startswith("421 4.7.0")
        assert client.reply() == ""


def test_an_endless_answer_in_a_login_is_refused(strange: Gateway) -> None:
    with strange.hello() as client:
        assert client.say("AUTH PLAIN") == "334 "
        assert client.say("A" * 20_000).startswith("500 5.5.6")


def test_no_password_without_tls(tmp_path: Path) -> None:
    with gateway(tmp_path, OPTIONS, server_tls()) as served, served.connect() as client:
        offers = client.say("EHLO me")
        assert "STARTTLS" in offers
        assert "AUTH" not in offers
        assert client.say("AUTH PLAIN " + plain("alice", "wonderland")).startswith("538 5.7.11")


def test_starttls_begins_anew(tmp_path: Path) -> None:
    with gateway(tmp_path, replace(STRANGER, allow_plain_auth=True), server_tls()) as served, served.hello() as client:
        assert client.say("AUTH PLAIN " + plain("alice", "wonderland")).startswith("235")
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("250")
        assert client.say("STARTTLS").startswith("220 2.0.0")
        client.start_tls(client_tls())
        assert client.say("RCPT TO:<bob@beta.example>").startswith("503")
        offers = client.say("EHLO me")
        assert "STARTTLS" not in offers
        assert "AUTH PLAIN LOGIN" in offers
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("530")
        assert client.say("AUTH PLAIN " + plain("alice", "wonderland")).startswith("235")
        assert client.submit().startswith("250")
        assert client.say("QUIT").startswith("221")
        assert b"with ESMTPSA id" in served.messages()[0][1]


@pytest.mark.parametrize(
    "injected",
    [
        b"EHLO injected\r\nMAIL FROM:<alice@alpha.example>\r\n",
        b"NOOP\r\n" * 1000,
        b"EHLO half a line",
        b"AUTH PLAIN AGFsaWNlAHdvbmRlcmxhbmQ=\r\n",
    ],
)
def test_commands_slipped_in_behind_starttls_are_not_heard(tmp_path: Path, injected: bytes) -> None:
    with gateway(tmp_path, OPTIONS, server_tls()) as served, served.hello() as client:
        client.send(b"STARTTLS\r\n" + injected)
        assert client.reply().startswith("220")
        client.start_tls(client_tls())
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("503 5.5.1 say EHLO first")
        assert client.say("EHLO me").startswith("250-gate.alpha.example")
        assert client.say("RCPT TO:<bob@beta.example>").startswith("503 5.5.1 MAIL")
        assert client.say("NOOP").startswith("250")


def test_tls_from_the_first_octet(tmp_path: Path) -> None:
    with gateway(tmp_path, STRANGER, server_tls(), implicit_tls=True) as served, served.connect(client_tls()) as client:
        offers = client.say("EHLO me")
        assert "STARTTLS" not in offers
        assert "AUTH PLAIN LOGIN" in offers
        assert client.say("STARTTLS").startswith("454")
        assert client.say("AUTH PLAIN " + plain("alice", "wonderland")).startswith("235")
        assert client.submit().startswith("250")
        assert client.say("QUIT").startswith("221")
        assert b"with ESMTPSA id" in served.messages()[0][1]


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n"])
def test_nothing_is_smuggled_through_a_message_s_end(local: Gateway, end: bytes) -> None:
    smuggled = b"MAIL FROM:<alice@alpha.example>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\n" + MESSAGE
    with local.hello() as client:
        assert client.submit(MESSAGE + b"first" + end + smuggled).startswith("550 5.6.0")
        assert client.say("NOOP").startswith("250")
    assert local.messages() == []


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"x" * 999, "550 5.6.0"),
        (b"a\0b", "550 5.6.0"),
        (b"a\rb", "550 5.6.0"),
        (b"a\nb", "550 5.6.0"),
        (b"x" * 998, "250"),
    ],
)
def test_lines_that_mail_does_not_have(local: Gateway, line: bytes, reply: str) -> None:
    with local.hello() as client:
        assert client.submit(MESSAGE + line + b"\r\n").startswith(reply)


def test_eight_bit_text_comes_through_octet_by_octet(local: Gateway) -> None:
    body = bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"") + "\r\ngrün\r\n".encode("latin-1")
    with local.hello() as client:
        assert client.say("MAIL FROM:<alice@alpha.example> BODY=8BITMIME SIZE=500").startswith("250")
        assert client.say("RCPT TO:<bob@beta.example>").startswith("250")
        assert client.say("DATA").startswith("354")
        client.send(MESSAGE + body + b"..dot\r\n.\r\n")
        assert client.reply().startswith("250")
    [(item, content)] = local.messages()
    assert item.eight_bit
    assert content.endswith(b"The text\r\n" + body + b".dot\r\n")


def test_a_message_too_large_is_refused_by_its_announced_size_and_by_its_real_one(local: Gateway) -> None:
    with local.hello() as client:
        assert client.say("MAIL FROM:<alice@alpha.example> SIZE=100001").startswith("552 5.3.4")
        line = b"y" * 98 + b"\r\n"
        assert client.submit(MESSAGE + line * 999).startswith("250")
        assert client.submit(MESSAGE + line * 1001).startswith("552 5.3.4")
        assert client.submit().startswith("250")
    assert len(local.messages()) == 2


def test_a_large_message_goes_by_way_of_the_disk(tmp_path: Path) -> None:
    text = MESSAGE + b"".join(b"%075d\r\n" % number for number in range(20_000))
    with gateway(tmp_path, replace(OPTIONS, size_limit=10_000_000)) as served:
        with served.hello() as client:
            assert client.submit(text).startswith("250")
        [(item, content)] = served.messages()
        assert len(content) == item.size
        assert content.endswith(text[len(MESSAGE) - 10 :])
        assert [path.name for path in served.queue.incoming.iterdir()] == [item.id]


def test_recipients_beyond_the_limit_have_to_wait(tmp_path: Path) -> None:
    with gateway(tmp_path, replace(OPTIONS, recipient_limit=3)) as served, served.hello() as client:
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("250")
        for number in range(3):
            assert client.say(f"RCPT TO:<u{number}@beta.example>").startswith("250 2.1.5")
        assert client.say("RCPT TO:<u3@beta.example>").startswith("452 4.5.3")
        assert client.say("DATA").startswith("354")
        client.send(MESSAGE + b".\r\n")
        assert client.reply().startswith("250")


@pytest.mark.parametrize(
    "address",
    [
        *("", "bob", "@beta.example", "bob@", "b b@beta.example", "bob@beta example", '"bob"@beta.example'),
        *("bob@[192.0.2.1]", "bob@beta.example\\r\\nX: 1", "bob\r@beta.example", "bob\0@beta.example"),
        *("x" * 65 + "@beta.example", "bob@-.example"),
    ],
)
def test_addresses_that_cannot_be_are_refused(local: Gateway, address: str) -> None:
    with local.hello() as client:
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("250")
        assert client.say(f"RCPT TO:<{address}>").startswith("553 5.1.3")


def test_addresses_beyond_ascii_need_smtputf8(local: Gateway) -> None:
    with local.hello() as client:
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("250")
        assert client.say("RCPT TO:<jürgen@beta.example>").startswith("553 5.6.7")
        assert client.say("RSET").startswith("250")
        assert client.say("MAIL FROM:<alice@alpha.example> SMTPUTF8").startswith("250")
        assert client.say("RCPT TO:<jürgen@beta.example>").startswith("250")
        client.send(b"RCPT TO:<\xff\xfe@beta.example>\r\n")
        assert client.reply().startswith("553 5.1.3")
        assert client.say("DATA").startswith("354")
        client.send(MESSAGE.replace(b"hello", "grün".encode()) + b".\r\n")
        assert client.reply().startswith("250")
    [(item, content)] = local.messages()
    assert item.utf8
    assert item.recipients[0].address.local == "jürgen"
    assert b"with UTF8SMTP id" in content


def test_the_null_sender_is_whoever_wrote_the_message(local: Gateway) -> None:
    with local.hello() as client:
        assert client.submit(MESSAGE, mail_from="").startswith("250")
        assert client.submit(MESSAGE.replace(b"alice", b"eve"), mail_from="").startswith("550 5.7.1")
    [(item, _)] = local.messages()
    assert item.mail_from is None
    assert item.account == "alice"


def test_subaddresses_belong_to_the_account(local: Gateway) -> None:
    with local.hello() as client:
        text = MESSAGE.replace(b"alice@", b"alice+shop@")
        assert client.submit(text, mail_from="alice+lists@alpha.example").startswith("250")
    [(item, _)] = local.messages()
    assert (item.account, item.sender) == ("alice", Address("alice+shop", "alpha.example"))


def test_a_sender_may_name_the_author_and_a_route(local: Gateway) -> None:
    with local.hello() as client:
        assert client.say("MAIL FROM:<alice@alpha.example> AUTH=<> BODY=8BITMIME").startswith("250")
        assert client.say("RCPT TO:<@relay.example,@other.example:bob@beta.example>").startswith("250")
        assert client.say("RCPT TO:<bob@beta.example> FOO=bar").startswith("555 5.5.4")
        assert client.say("RSET").startswith("250")
        assert client.say("MAIL FROM:<alice@alpha.example> FOO=bar").startswith("555 5.5.4")
        assert client.say("MAIL FROM:<alice@alpha.example> BODY=BINARYMIME").startswith("501 5.5.4")


def test_what_a_client_wants_to_be_told_is_kept(local: Gateway) -> None:
    with local.hello() as client:
        assert client.say("mail from:<alice@alpha.example> ret=hdrs ENVID=QQ+2B314159 body=8bitmime").startswith("250")
        assert client.say("RCPT TO:<bob@beta.example> notify=delay,success ORCPT=rfc822;Bob+2Bx@b").startswith("250")
        assert client.say("RCPT TO:<carl@beta.example> NOTIFY=never").startswith("250")
        assert client.say("RCPT TO:<dora@beta.example>").startswith("250")
        assert client.say("RCPT TO:<bob@beta.example> NOTIFY=NEVER").startswith("250")
        assert client.say("DATA").startswith("354")
        client.send(MESSAGE + b".\r\n")
        assert client.reply().startswith("250")
    [(item, _)] = local.messages()
    assert (item.ret, item.envid) == ("HDRS", "QQ+2B314159")
    assert [(each.notify, each.original) for each in item.recipients] == [
        ("SUCCESS,DELAY", "rfc822;Bob+2Bx@b"),
        ("NEVER", ""),
        ("", ""),
    ]


def test_parameters_that_are_wrong_change_nothing(local: Gateway) -> None:
    with local.hello() as client:
        assert client.say("MAIL FROM:<alice@alpha.example> RET=BODY").startswith("501 5.5.4")
        assert client.say("RCPT TO:<bob@beta.example>").startswith("503 5.5.1")
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("250")
        assert client.say("RCPT TO:<bob@beta.example> NOTIFY=NEVER,DELAY").startswith("501 5.5.4")
        assert client.say("RCPT TO:<bob@beta.example> ORCPT=rfc822;a+0D+0AAction:+20delivered").startswith("501 5.5.4")
        assert client.say("DATA").startswith("503 5.5.1")


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("", "500 5.5.2"),
        ("FOO", "500 5.5.2"),
        ("MAIL FROM:<alice@alpha.example>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("EHLO", "501 5.5.4"),
        ("VRFY bob", "252 2.5.0"),
        ("HELP", "214 2.0.0"),
        ("HELO", "501 5.5.4"),
        ("BDAT 5 LAST", "500 5.5."),
        ("EXPN list", "502 5.5.1"),
        ("x" * 3000, "500 5.5.6"),
        ("NOOP " + "x" * 50_000, "500 5.5.6"),
        ("\x00\x01", "500 5.5.2"),
        ("é", "500 5.5.2"),
    ],
)
def test_commands_out_of_order_or_out_of_shape(local: Gateway, command: str, reply: str) -> None:
    with local.connect() as client:
        if command.startswith(("VRFY", "EXPN")):
            client.say("EHLO me")
        assert client.say(command).startswith(reply)
        assert client.say("NOOP").startswith("250 2.0.0")


def test_a_password_needs_ehlo(strange: Gateway) -> None:
    with strange.connect() as client:
        assert client.say("AUTH PLAIN " + plain("alice", "wonderland")).startswith("503 5.5.1 say EHLO")
        client.say("HELO old")
        assert client.say("AUTH PLAIN " + plain("alice", "wonderland")).startswith("503 5.5.1 say EHLO")


def test_a_flood_of_nonsense_ends_the_connection(local: Gateway) -> None:
    with local.hello() as client:
        client.send(b"MAIL FROM:<eve@elsewhere.example>\r\n" * (MAX_ERRORS + 10))
        replies = [client.reply() for _ in range(MAX_ERRORS + 2)]
    assert [reply[:9] for reply in replies] == ["550 5.7.1"] * MAX_ERRORS + ["421 4.7.0", ""]


def test_who_sends_messages_may_make_mistakes(local: Gateway) -> None:
    with local.hello() as client:
        for _ in range(3):
            client.send(b"RCPT TO:<bob@beta.example>\r\n" * (MAX_ERRORS - 1))
            assert {client.reply()[:9] for _ in range(MAX_ERRORS - 1)} == {"503 5.5.1"}
            assert client.submit().startswith("250")


def test_who_asks_and_does_not_listen_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LAST_WORD_SECONDS", 0.1)
    options = replace(OPTIONS, timeout_seconds=0.3)
    with gateway(tmp_path, options) as served, Client(served.address, window=4096) as client:
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                client.send(b"RSET\r\n" * 1000)
        wait_until(lambda: not served.acceptance.connections)


def test_a_message_that_trickles_in_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "GRACE_SECONDS", 0.05)
    with gateway(tmp_path, OPTIONS) as served, served.hello() as client:
        client.say("MAIL FROM:<alice@alpha.example>")
        client.say("RCPT TO:<bob@beta.example>")
        client.say("DATA")
        client.trickle(b"x")
        assert client.reply().startswith("421 4.4.2")
        wait_until(lambda: not served.acceptance.connections)
        assert served.messages() == []


def test_a_thousand_recipients(tmp_path: Path) -> None:
    with gateway(tmp_path, OPTIONS) as served, served.hello() as client:
        client.send(b"MAIL FROM:<alice@alpha.example>\r\n")
        for number in range(1001):
            client.send(b"RCPT TO:<u%d@beta.example> NOTIFY=NEVER ORCPT=rfc822;u%d@c.example\r\n" % (number, number))
        client.send(b"DATA\r\n")
        replies = [client.reply()[:9] for _ in range(1003)]
        assert replies == ["250 2.1.0"] + ["250 2.1.5"] * 1000 + ["452 4.5.3", "354 go on"]
        client.send(MESSAGE + b".\r\n")
        assert client.reply().startswith("250")
        [(item, _)] = served.messages()
        assert len({each.post_id for each in item.recipients}) == 1000


ENHANCED = re.compile(r"(?:2\d\d 2|4\d\d 4|5\d\d 5)\.\d{1,3}\.\d{1,3} \S.*")
WITHOUT = re.compile(r"250[ -]gate\.alpha\.example(?:\n.*)*|334 .*|354 .*")  # RFC 2034 §4
WORDS = ["EHLO", "HELO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "AUTH", "STARTTLS", "BDAT"]
ARGUMENTS = [
    "",
    "me",
    "FROM:<alice@alpha.example>",
    "TO:<bob@beta.example>",
    "FROM:<>",
    "TO:<>",
    "FROM:<x> A=B",
    "PLAIN",
]
LINES = st.tuples(
    st.sampled_from([*WORDS, "TURN"]).map(str.encode),
    st.sampled_from(ARGUMENTS).map(str.encode) | st.binary(max_size=20) | st.text(max_size=20).map(str.encode),
)


@given(st.lists(LINES.map(lambda line: b" ".join(line).translate(None, b"\r\n")), min_size=1, max_size=8))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_reply_has_an_enhanced_status_code(local: Gateway, lines: list[bytes]) -> None:
    with local.connect() as client:
        for line in lines:
            client.send(line + b"\r\n")
            reply = client.reply()
            if reply.startswith("354"):
                client.send(b".\r\n")
                reply = client.reply()
            if reply.startswith("334"):
                client.send(b"*\r\n")
                reply = client.reply()
            assert ENHANCED.fullmatch(reply) or WITHOUT.fullmatch(reply), (line, reply)
            assert not reply.startswith("451"), (line, reply)
            if "goodbye" in reply:  # too much nonsense
                return


FORGERY = (
    b"MAIL FROM:<alice@alpha.example>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nFrom: alice@alpha.example\r\n\r\n"
)
BROKEN = [b"\r", b"\n", b"\r\n", b"\n\r", b"\r\r\n", b"\n\n", b"\0\r\n", b" \r\n"]


@given(st.sampled_from(BROKEN), st.sampled_from([b".", b"..", b". ", b" .", b".\0"]), st.sampled_from(BROKEN))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_around_a_dot_only_crlf_makes_an_end(local: Gateway, before: bytes, dot: bytes, behind: bytes) -> None:
    assume(b"\r\n.\r\n" not in before + dot + behind)
    known = len(local.messages())
    with local.hello() as client:
        for line in ("MAIL FROM:<alice@alpha.example>", "RCPT TO:<bob@beta.example>", "DATA"):
            client.say(line)
        client.send(MESSAGE + b"text" + before + dot + behind + FORGERY + b"\r\n.\r\nNOOP\r\n")
        replies = [client.reply()[:3] for _ in range(2)]
        assert replies[1] == "250", "the dialog goes on behind the one real end"
        accepted = local.messages()[known:]
        assert (replies[0], len(accepted)) in (("550", 0), ("250", 1))
        assert all(str(each.address) == "bob@beta.example" for item, _ in accepted for each in item.recipients)


def test_babble_ends_the_connection(local: Gateway) -> None:
    with local.connect() as client:
        client.send(b"GET / HTTP/1.1\r\n" * 6)
        replies = [client.reply() for _ in range(5)]
        assert replies[-1].startswith("502 5.5.1")
        assert client.reply() == ""


def test_helo_is_enough_for_old_programs(local: Gateway) -> None:
    with local.connect() as client:
        assert client.say("HELO old") == "250 gate.alpha.example"
        assert client.say("MAIL FROM:<alice@alpha.example> SIZE=10").startswith("501")
        assert client.submit().startswith("250")
    assert b"with SMTP id" in local.messages()[0][1]


def test_too_many_connections_are_told_so(tmp_path: Path) -> None:
    with gateway(tmp_path, replace(OPTIONS, connection_limit=3)) as served:
        first, second, third = served.connect(), served.connect(), served.connect()
        with Client(served.address) as fourth:
            assert fourth.reply().startswith("421 4.7.0")
            assert fourth.reply() == ""
        first.close()
        wait_until(lambda: len(served.acceptance.connections) == 2)
        with served.connect() as again:
            assert again.say("NOOP").startswith("250")
        second.close()
        third.close()


def test_one_address_has_its_own_limit(tmp_path: Path) -> None:
    options = replace(STRANGER, connection_limit_per_address=1)
    with gateway(tmp_path, options) as served, served.connect(), Client(served.address) as second:
        assert "from you" in second.reply()


def test_this_machine_may_have_all_connections_there_are(tmp_path: Path) -> None:
    options = replace(OPTIONS, connection_limit_per_address=1)
    with gateway(tmp_path, options) as served, served.connect(), served.connect() as second:
        assert second.say("NOOP").startswith("250")


def test_who_says_nothing_is_hung_up_on(tmp_path: Path) -> None:
    with gateway(tmp_path, replace(OPTIONS, timeout_seconds=0.7)) as served:
        with served.hello() as idle:
            assert idle.reply().startswith("421 4.4.2")
            assert idle.reply() == ""
        with served.hello() as stalled:
            stalled.say("MAIL FROM:<alice@alpha.example>")
            stalled.say("RCPT TO:<bob@beta.example>")
            stalled.say("DATA")
            stalled.send(b"From: alice@alpha.example\r\n")
            assert stalled.reply().startswith("421 4.4.2")
        wait_until(lambda: not served.acceptance.connections)
        assert served.messages() == []
        assert list(served.queue.incoming.iterdir()) == []


def test_a_client_that_leaves_in_the_middle_leaves_nothing(local: Gateway) -> None:
    with local.hello() as client:
        client.say("MAIL FROM:<alice@alpha.example>")
        client.say("RCPT TO:<bob@beta.example>")
        client.say("DATA")
        client.send(MESSAGE * 100)
        client.half_close()
        assert client.reply() == ""
    wait_until(lambda: not local.acceptance.connections)
    assert local.messages() == []


def test_a_full_disk_is_a_reason_to_come_back(local: Gateway) -> None:
    with local.hello() as client:
        client.say(f"MAIL FROM:<{ALICE}>")
        client.say("RCPT TO:<bob@beta.example>")
        local.queue.incoming.rename(local.queue.root / "away")
        assert client.say("DATA").startswith("354")
        client.send(MESSAGE + b".\r\n")
        assert client.reply().startswith("452 4.3.1")
        assert client.say(f"MAIL FROM:<{ALICE}>").startswith("452 4.3.1")
        (local.queue.root / "away").rename(local.queue.incoming)
        assert client.submit().startswith("250")


def test_shutting_down_says_so_to_the_idle(tmp_path: Path) -> None:
    with gateway(tmp_path, OPTIONS) as served:
        idle = served.hello()
    assert idle.reply().startswith("421 4.3.2")
    assert idle.reply() == ""
    idle.close()
