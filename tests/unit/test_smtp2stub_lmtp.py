"""LMTP: a reply for each recipient, and mail of accounts alone, from whoever can connect."""

import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.smtp2stub.lmtp import listening_socket, parse_lmtp_listen
from services.smtp2stub.settings import Smtp2stub
from stubmail.errors import Exit
from stubmail.settings import ConfigError
from tests.support.gateway import ALICE, MESSAGE, Client, Gateway, gateway

OPTIONS = Smtp2stub(users=Path("unused"), timeout_seconds=20, size_limit=100_000, trust_loopback=False)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path, OPTIONS, lmtp=True) as found:
        yield found


@pytest.fixture
def client(local: Gateway) -> Iterator[Client]:
    with local.connect() as found:
        assert found.say("LHLO mx.alpha.example").startswith("250")
        yield found


def test_the_greeting_and_the_offers(local: Gateway) -> None:
    with Client(local.address) as client:
        assert client.reply() == "220 gate.alpha.example LMTP stubmail"
        assert client.say("MAIL FROM:<alice@alpha.example>").startswith("503 5.5.1 say LHLO")
        assert client.say("DATA").startswith("503 5.5.1 say LHLO")
        assert client.say("LHLO").startswith("501 5.5.4")
        assert client.say("LHLO mx").split("\n") == [
            "250-gate.alpha.example",
            "250-SIZE 100000",
            "250-8BITMIME",
            "250-SMTPUTF8",
            "250-PIPELINING",
            "250-ENHANCEDSTATUSCODES",
            "250 DSN",
        ]


@pytest.mark.parametrize("command", ["HELO mx", "EHLO mx", "STARTTLS", "AUTH PLAIN AGEAYg=="])
def test_what_is_smtp_s_is_not_spoken(client: Client, command: str) -> None:
    assert client.say(command).startswith("500 5.5.")


def test_each_recipient_that_was_taken_has_a_reply(local: Gateway, client: Client) -> None:
    client.send(b"MAIL FROM:<alice@alpha.example>\r\n")
    client.send(b"RCPT TO:<bob@beta.example>\r\nRCPT TO:<nobody>\r\nRCPT TO:<carl@beta.example> NOTIFY=NEVER\r\n")
    client.send(b"RCPT TO:<bob@beta.example>\r\nDATA\r\n" + MESSAGE + b".\r\nNOOP\r\n")
    assert [client.reply()[:9] for _ in range(6)] == [
        "250 2.1.0",
        "250 2.1.5",
        "553 5.1.3",
        "250 2.1.5",
        "250 2.1.5",
        "354 go on",
    ]
    replies = [client.reply() for _ in range(3)]
    [(item, content)] = local.messages()
    assert replies == [f"250 2.0.0 accepted as {item.id}"] * 3
    assert client.reply().startswith("250 2.0.0")
    assert [each.address.local for each in item.recipients] == ["bob", "carl"]
    assert b"with LMTP id" in content
    assert content.startswith(b"Received: from mx.alpha.example ([127.0.0.1])\r\n")


def test_a_refused_message_is_refused_for_each(local: Gateway, client: Client) -> None:
    client.say("MAIL FROM:<alice@alpha.example>")
    client.say("RCPT TO:<bob@beta.example>")
    client.say("RCPT TO:<carl@beta.example>")
    client.say("DATA")
    client.send(MESSAGE.replace(b"alice@", b"mallory@") + b".\r\n")
    assert [client.reply()[:9] for _ in range(2)] == ["550 5.7.1"] * 2
    assert client.say("NOOP").startswith("250")
    assert local.messages() == []


def test_without_a_recipient_there_is_nothing_to_say(client: Client) -> None:
    client.say("MAIL FROM:<alice@alpha.example>")
    client.say("RCPT TO:<nobody>")
    assert client.say("DATA").startswith("503 5.5.1")


@pytest.mark.parametrize("sender", ["eve@elsewhere.example", "nobody@alpha.example", "mailer-daemon@alpha.example"])
def test_mail_of_strangers_is_not_taken(local: Gateway, client: Client, sender: str) -> None:
    assert client.say(f"MAIL FROM:<{sender}>").startswith("550 5.7.1")
    assert client.submit(MESSAGE.replace(b"alice@alpha.example", sender.encode()), mail_from="").startswith("550 5.7.1")
    assert local.messages() == []


def test_what_an_account_s_programs_send_from_nobody_is_taken(local: Gateway, client: Client) -> None:
    assert client.submit(mail_from="").startswith("250")
    [(item, _)] = local.messages()
    assert (item.account, item.mail_from) == (ALICE.local, None)


def test_one_machine_is_not_limited_as_one_address(tmp_path: Path) -> None:
    with (
        gateway(tmp_path, replace(OPTIONS, connection_limit_per_address=1), lmtp=True) as served,
        served.connect(),
        served.connect() as second,
    ):
        assert second.say("NOOP").startswith("250")


def test_a_unix_socket_is_for_owner_and_group_and_replaces_its_predecessor(tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    for _ in range(2):
        with listening_socket(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    path.unlink()
    path.write_text("somebody's file")
    with pytest.raises(Exit, match=r"cannot listen on .*lmtp: "):
        listening_socket(str(path))
    assert path.read_text() == "somebody's file"


@pytest.mark.parametrize("text", ["/" + "x" * 200, "/nonexistent/lmtp"])
def test_where_no_socket_can_be_is_said(text: str) -> None:
    with pytest.raises(Exit, match="cannot listen on"):
        listening_socket(text)


@pytest.mark.parametrize(
    "text", ["0.0.0.0:24", "[::]:24", "192.0.2.1:24", "mx.alpha.example:24", "lmtp", "127.0.0.1", "[::1]:25"]
)
def test_lmtp_is_for_this_machine(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_lmtp_listen(text)


def test_loopback_by_name_and_number() -> None:
    assert parse_lmtp_listen("localhost:24") == ("localhost", 24)
    assert parse_lmtp_listen("[::1]:24") == ("::1", 24)
    assert parse_lmtp_listen("127.0.0.1:24") == ("127.0.0.1", 24)
    with listening_socket("127.0.0.1:0") as listener:
        assert listener.family == socket.AF_INET
