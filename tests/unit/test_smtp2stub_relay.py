"""What the gateway says to a smarthost, and what it makes of the answers."""

import base64
import ssl
import string
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from services.smtp2stub import relay as relay_module
from services.smtp2stub.connections import Connections
from services.smtp2stub.relay import Smarthost, relay
from stubmail.address import Address
from stubmail.errors import TemporaryError
from stubmail.queue import SILENT, Item, Outcome, State
from tests.support.gateway import BOB, CAROL, MESSAGE, make_item
from tests.support.smarthost import FakeSmarthost, serving

BASE64 = set(string.ascii_letters + string.digits + "+/=")
TLS = Path(__file__).parent.parent / "data" / "tls"


def send(
    server: FakeSmarthost, *recipients: Address, item: Item | None = None, message: bytes = MESSAGE, tls: str = "none"
) -> list[Outcome]:
    with serving(server):
        host = Smarthost("127.0.0.1", server.port, tls, "gate.example")
        return through(host, item or make_item(1, *recipients), recipients or (BOB,), message)


def through(host: Smarthost, item: Item, recipients: Sequence[Address], message: bytes) -> list[Outcome]:
    """Relay one message, and keep no connection."""
    connections = Connections(host.connect)
    try:
        return relay(connections, item, recipients, message)
    finally:
        connections.close_idle(every=True)


def answering(**replies: str) -> Callable[[str], str | None]:
    """Answer commands that begin with a verb, by verb."""
    return lambda line: next((reply for verb, reply in replies.items() if line.upper().startswith(verb)), None)


def test_a_message_goes_to_all_recipients_as_it_is() -> None:
    server = FakeSmarthost()
    text = MESSAGE + b".dot\r\n..\r\n"
    outcomes = send(server, BOB, CAROL, message=text)
    assert [outcome.state for outcome in outcomes] == [State.DONE, State.DONE]
    assert server.messages == [text]
    assert [line.lower() for line in server.commands[2:5]] == [
        f"mail from:<alice@alpha.example> size={len(MESSAGE)}",
        "rcpt to:<bob@beta.example>",
        "rcpt to:<carol@legacy.example>",
    ]


@pytest.mark.parametrize(
    ("replies", "state", "code"),
    [
        ({"RCPT": "550 5.1.1 no such user"}, State.FAILED, "5.1.1"),
        ({"RCPT": "550 no such user"}, State.FAILED, "5.0.0"),
        ({"RCPT": "450 4.2.0 greylisted"}, State.WAITING, "4.2.0"),
        ({"RCPT": "450 5.1.1 says two things"}, State.WAITING, "4.0.0"),
        ({"MAIL": "550 5.7.1 go away"}, State.FAILED, "5.7.1"),
        ({"MAIL": "451 busy"}, State.WAITING, "4.0.0"),
        ({"DATA": "554 5.5.1 no"}, State.FAILED, "5.5.1"),
        ({"DATA": "451 4.3.0 later"}, State.WAITING, "4.3.0"),
        ({"(MESSAGE)": "552 5.3.4 too big"}, State.FAILED, "5.3.4"),
        ({"(MESSAGE)": "452 4.3.1 full"}, State.WAITING, "4.3.1"),
        ({"(MESSAGE)": ""}, State.WAITING, "4.4.1"),
        ({"RCPT": ""}, State.WAITING, "4.4.1"),
        ({"MAIL": "garbage"}, State.WAITING, "4.0.0"),
        ({"(CONNECT)": "554 5.7.1 blocked"}, State.WAITING, "4.4.1"),
        ({"EHLO": "550 no", "HELO": "550 no"}, State.WAITING, "4.4.1"),
    ],
)
def test_answers_and_what_they_mean(replies: dict[str, str], state: State, code: str) -> None:
    [outcome] = send(FakeSmarthost(reply=answering(**replies)))
    assert (outcome.state, outcome.code, outcome.via) == (state, code, "smarthost")


def test_each_recipient_has_his_own_fate() -> None:
    server = FakeSmarthost(reply=lambda line: "550 5.1.1 no" if "carol" in line else None)
    assert [outcome.state for outcome in send(server, BOB, CAROL)] == [State.DONE, State.FAILED]
    assert len(server.messages) == 1


def test_a_smarthost_that_dies_in_the_middle_of_the_text_is_tried_again() -> None:
    text = MESSAGE + b"0123456789abcdef\r\n" * 300_000
    server = FakeSmarthost(break_after=100_000)
    assert {(outcome.state, outcome.code) for outcome in send(server, BOB, CAROL, message=text)} == {
        (State.WAITING, "4.4.1")
    }
    assert server.messages == []
    server.break_after = None
    assert [outcome.state for outcome in send(server, BOB, CAROL, message=text)] == [State.DONE, State.DONE]
    assert server.messages == [text]


def test_a_smarthost_that_says_nothing_more_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "ACCEPT_SECONDS", 0.1)
    monkeypatch.setattr(relay_module, "QUIT_SECONDS", 0.1)
    over = threading.Event()

    def reply(line: str) -> str | None:
        if line == "(message)":
            over.wait(30)
        return None

    server = FakeSmarthost(reply=reply)
    with serving(server):
        host = Smarthost("127.0.0.1", server.port, "none", "gate.example")
        started = time.monotonic()
        [outcome] = through(host, make_item(1), [BOB], MESSAGE)
        assert time.monotonic() - started < 10
        over.set()
    assert (outcome.state, outcome.code) == (State.WAITING, "4.4.1")


@pytest.mark.parametrize(
    "replies",
    [{}, {"RCPT": "550 5.1.1 no"}, {"MAIL": "451 later"}, {"DATA": "554 no"}, {"(MESSAGE)": "452 4.3.1 full"}],
)
def test_every_connection_ends_politely(replies: dict[str, str]) -> None:
    server = FakeSmarthost(reply=answering(**replies))
    send(server)
    assert server.commands[-1].upper() == "QUIT"


def test_recipients_beyond_what_a_transaction_takes_go_in_the_next() -> None:
    people = [Address(f"u{number}", "legacy.example") for number in range(7)]
    taken: list[str] = []

    def reply(line: str) -> str | None:
        if line.upper().startswith("MAIL"):
            taken.clear()
        if not line.upper().startswith("RCPT"):
            return None
        if "u3@" in line:
            return "550 5.1.1 nobody"
        taken.append(line)
        return None if len(taken) <= 3 else "452 4.5.3 too many recipients"

    server = FakeSmarthost(reply=reply)
    outcomes = send(server, *people)
    assert [outcome.state for outcome in outcomes] == [State.FAILED if n == 3 else State.DONE for n in range(7)]
    assert len(server.messages) == 2
    assert len([line for line in server.commands if line == "(connect)"]) == 1


def test_what_is_known_of_recipients_outlives_a_break_later_on() -> None:
    people = [Address(f"u{number}", "legacy.example") for number in range(3)]
    mails: list[str] = []

    def reply(line: str) -> str | None:
        if line.upper().startswith("MAIL"):
            mails.append(line)
            return None if len(mails) == 1 else ""
        return "452 4.5.3 too many" if "u2@" in line else None

    outcomes = send(FakeSmarthost(reply=reply), *people)
    assert [outcome.state for outcome in outcomes] == [State.DONE, State.DONE, State.WAITING]


def test_nobody_can_be_told_to_wait_for_ever() -> None:
    server = FakeSmarthost(reply=answering(RCPT="452 4.5.3 too many"))
    assert [outcome.state for outcome in send(server, BOB, CAROL)] == [State.WAITING, State.WAITING]
    assert len([line for line in server.commands if line.upper().startswith("MAIL")]) == 1


@pytest.mark.parametrize("offer", ["AUTH PLAIN", "AUTH LOGIN", "AUTH CRAM-MD5 PLAIN"])
def test_logins_in_the_ways_that_smarthosts_offer(offer: str) -> None:
    def reply(line: str) -> str | None:
        if line.upper().startswith("AUTH CRAM-MD5"):
            return "334 " + base64.b64encode(b"<1@smart.example>").decode()
        if line.upper() == "AUTH LOGIN" or (line.upper().startswith("AUTH LOGIN ")):
            return "334 UGFzc3dvcmQ6"
        return "235 2.7.0 welcome" if line and set(line) <= BASE64 else None

    server = FakeSmarthost(offers=[offer], reply=reply)
    with serving(server):
        host = Smarthost("127.0.0.1", server.port, "none", "gate.example", None, "alice", "secret")
        [outcome] = through(host, make_item(1), [BOB], MESSAGE)
    assert outcome.state is State.DONE


def test_nothing_is_sent_when_nobody_is_left() -> None:
    server = FakeSmarthost(reply=answering(RCPT="550 5.1.1 no"))
    send(server, BOB, CAROL)
    assert server.messages == []
    assert "data" not in [line.lower() for line in server.commands]


def test_what_the_smarthost_cannot_take_comes_back() -> None:
    utf8 = replace(make_item(1, Address("jürgen", "beta.example")), utf8=True)
    [outcome] = send(FakeSmarthost(offers=["SIZE"]), utf8.recipients[0].address, item=utf8)
    assert (outcome.state, outcome.code) == (State.FAILED, "5.6.7")
    eight_bit = replace(make_item(1), eight_bit=True)
    [outcome] = send(FakeSmarthost(offers=["SIZE"]), item=eight_bit)
    assert (outcome.state, outcome.code) == (State.FAILED, "5.6.3")


def test_extensions_are_used_where_they_are_needed() -> None:
    server = FakeSmarthost()
    item = replace(make_item(1, Address("jürgen", "beta.example")), utf8=True, eight_bit=True)
    [outcome] = send(server, item.recipients[0].address, item=item)
    assert outcome.state is State.DONE
    assert "SMTPUTF8 BODY=8BITMIME" in server.commands[2].upper()
    assert "jürgen@beta.example" in server.commands[3]


def test_a_smarthost_that_is_not_there_is_waited_for() -> None:
    server = FakeSmarthost()
    with serving(server):
        pass
    [outcome] = through(Smarthost("127.0.0.1", server.port, "none", "gate.example"), make_item(1), [BOB], MESSAGE)
    assert (outcome.state, outcome.code) == (State.WAITING, "4.4.1")
    assert "cannot reach the smarthost" in outcome.text


def test_the_null_sender() -> None:
    server = FakeSmarthost()
    send(server, item=make_item(1, mail_from=None))
    assert "FROM:<>" in server.commands[2].upper()


@pytest.mark.parametrize("kind", ["starttls", "tls"])
@pytest.mark.parametrize("trusted", [True, False])
def test_tls_is_verified_before_anything_is_said(kind: str, trusted: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    server = FakeSmarthost(tls=context, implicit_tls=kind == "tls", offers=["STARTTLS", "AUTH PLAIN"])
    client = ssl.create_default_context(cafile=TLS / "ca.pem" if trusted else None)
    client.check_hostname = False  # the certificate in tests/data is for another name than 127.0.0.1
    with serving(server):
        host = Smarthost("127.0.0.1", server.port, kind, "gate.example", client, "alice", "secret")
        [outcome] = through(host, make_item(1), [BOB], MESSAGE)
    assert outcome.state is (State.DONE if trusted else State.WAITING)
    assert any(line.startswith("AUTH") for line in server.commands) == trusted
    assert (len(server.messages) == 1) == trusted


def test_starttls_that_is_not_offered_is_no_reason_to_go_without() -> None:
    server = FakeSmarthost()
    [outcome] = send(server, tls="starttls")
    assert (outcome.state, outcome.code) == (State.WAITING, "4.4.1")
    assert not any(line.lower().startswith("mail") for line in server.commands)


def test_the_password_stays_out_of_messages_and_logs() -> None:
    assert "secret" not in repr(Smarthost("h", 25, "tls", "me", None, "alice", "secret"))
    server = FakeSmarthost(offers=["AUTH PLAIN"], reply=answering(AUTH="535 5.7.8 no"))
    with serving(server):
        host = Smarthost("127.0.0.1", server.port, "none", "gate.example", None, "alice", "secret")
        with pytest.raises(TemporaryError) as caught:
            host.connect()
    assert "secret" not in caught.value.text


def asking() -> Item:
    item = make_item(1, BOB, CAROL)
    bob = replace(item.recipients[0], notify="SUCCESS,DELAY", original="rfc822;Bob+2Bx@b.example")
    return replace(item, recipients=(bob, item.recipients[1]), ret="HDRS", envid="QQ+2B1")


def test_what_the_sender_wants_to_hear_of_is_passed_on_to_who_can_tell_him() -> None:
    server = FakeSmarthost(offers=["DSN"])
    outcomes = send(server, BOB, CAROL, item=asking())
    assert [line.lower() for line in server.commands[2:5]] == [
        "mail from:<alice@alpha.example> ret=hdrs envid=qq+2b1",
        "rcpt to:<bob@beta.example> notify=success,delay orcpt=rfc822;bob+2bx@b.example",
        "rcpt to:<carol@legacy.example>",
    ]
    assert [(outcome.state, outcome.notice) for outcome in outcomes] == [(State.DONE, SILENT)] * 2


def test_a_smarthost_that_cannot_tell_is_not_asked_to() -> None:
    server = FakeSmarthost(offers=[])
    outcomes = send(server, BOB, CAROL, item=asking())
    assert [line.lower() for line in server.commands[2:4]] == [
        "mail from:<alice@alpha.example>",
        "rcpt to:<bob@beta.example>",
    ]
    assert [(outcome.state, outcome.notice) for outcome in outcomes] == [(State.DONE, 0)] * 2


@pytest.mark.parametrize(
    "replies", [{"RCPT": "550 5.1.1 no"}, {"(MESSAGE)": "552 5.3.4 big"}, {"DATA": "451 4.3.0 no"}]
)
def test_what_a_smarthost_refuses_is_ours_to_tell_of(replies: dict[str, str]) -> None:
    server = FakeSmarthost(offers=["DSN"], reply=answering(**replies))
    assert {outcome.notice for outcome in send(server, BOB, CAROL, item=asking())} == {0}
