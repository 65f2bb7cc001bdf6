"""The notices' common form: the fields of RFC 3464 that only some notices have, and their order."""

from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.dsn import MAX_HEADER, Action, Notice, RecipientStatus, quotable

ALICE, BOB = Address("alice", "alpha.example"), Address("bob", "beta.example")
FIRST = {Action.FAILED: "Not delivered:", Action.DELAYED: "Not yet:", Action.RELAYED: "Handed on:"}
NOTICE = Notice("n1", "alpha.example", ALICE, 1_800_000_000.0, 1_800_000_100.0, FIRST, "Last.", b"Subject: x\r\n\r\ny")


def parts(notice: Notice, *recipients: RecipientStatus) -> list[EmailMessage]:
    message = message_from_bytes(notice.to_wire(recipients), policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    return [part for part in message.iter_parts() if isinstance(part, EmailMessage)]


def test_what_is_known_of_a_recipient_stands_in_the_order_of_the_standard() -> None:
    failure = RecipientStatus(
        BOB,
        "4.4.7",
        "too late",
        original="rfc822;Bob+2Bx@beta.example",
        remote="post.alpha.example",
        last_attempt=1_800_000_050.0,
        fields=(("X-Stub-Post-ID", "00" * 16),),
    )
    _, status, _ = parts(NOTICE, failure)
    message, recipient = status.get_payload()
    assert list(message) == ["Reporting-MTA", "Arrival-Date"]
    assert dict(recipient.items()) == {
        "Original-Recipient": "rfc822; Bob+x@beta.example",
        "Final-Recipient": "rfc822; bob@beta.example",
        "Action": "failed",
        "Status": "5.4.7",
        "Remote-MTA": "dns; post.alpha.example",
        "Diagnostic-Code": "x-stubmail; too late",
        "Last-Attempt-Date": "Fri, 15 Jan 2027 08:00:50 +0000",
        "X-Stub-Post-ID": "00" * 16,
    }


def test_what_is_not_known_is_left_out() -> None:
    wire = NOTICE.to_wire([RecipientStatus(BOB, "5.1.1", "no")])
    assert not any(name in wire for name in (b"Original-Recipient", b"Remote-MTA", b"Last-Attempt-Date", b"Envelope"))


def test_whole_fields_are_quoted_and_nothing_behind_them() -> None:
    assert quotable(b"A: 1\r\nB: 2\r\n\r\ntext\r\n") == b"A: 1\r\nB: 2\r\n"
    assert quotable(b"A: 1\r\nB: cut sho") == b"A: 1\r\n"
    assert len(quotable(b"A: 1\r\n" * MAX_HEADER)) <= MAX_HEADER


@pytest.mark.parametrize(
    ("action", "code", "status", "subject"),
    [
        (Action.FAILED, "4.4.1", "5.4.1", "Your message was not delivered"),
        (Action.DELAYED, "4.4.1", "4.4.1", "Your message is delayed"),
        (Action.RELAYED, "2.0.0", "2.0.0", "Your message was handed on"),
    ],
)
def test_each_action_has_its_class_and_its_words(action: Action, code: str, status: str, subject: str) -> None:
    each = RecipientStatus(BOB, code, "why", action, retry_until=1_800_432_000.0)
    wire = NOTICE.to_wire([each])
    assert f"Subject: {subject}\r\n".encode() in wire
    text, machine, _ = parts(NOTICE, each)
    assert text.get_content().splitlines()[0] == FIRST[action]
    _, recipient = machine.get_payload()
    assert (recipient["Action"], recipient["Status"]) == (action, status)
    assert (recipient["Will-Retry-Until"] is not None) is (action is Action.DELAYED)


def test_a_notice_of_several_fates_is_named_after_the_worst_and_groups_them() -> None:
    fates = [RecipientStatus(Address(action, "x.example"), "5.0.0", "", action) for action in reversed(Action)]
    assert b"Subject: Your message was not delivered" in NOTICE.to_wire(fates)
    text = parts(NOTICE, *fates)[0].get_content()
    words = ["Not delivered:", "failed@x.example", "Not yet:", "delayed@x.example", "Handed on:", "relayed@x.example"]
    assert [text.index(word) for word in words] == sorted(text.index(word) for word in words)


def test_the_envelope_s_id_comes_first_and_decoded() -> None:
    _, status, _ = parts(replace(NOTICE, envid="QQ+2B314159+20x"), RecipientStatus(BOB, "5.1.1", "no"))
    assert next(iter(status.get_payload()[0].items())) == ("Original-Envelope-Id", "QQ+314159 x")


def test_an_original_recipient_beyond_ascii_makes_a_global_notice() -> None:
    each = RecipientStatus(BOB, "5.1.1", "no", original="utf-8;j\\x{FC}rgen@beta.example")
    _, status, _ = parts(NOTICE, each)
    assert status.get_content_type() == "message/global-delivery-status"
    assert "Original-Recipient: utf-8; jürgen@beta.example\r\n".encode() in NOTICE.to_wire([each])


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_parameter_breaks_out_of_its_field(envid: str, original: str) -> None:
    each = RecipientStatus(BOB, "5.1.1", "no", original=f"rfc822;{original}")
    _, status, _ = parts(replace(NOTICE, envid=envid), each)
    message, recipient = status.get_payload()
    assert set(message.keys()) <= {"Original-Envelope-Id", "Reporting-MTA", "Arrival-Date"}
    assert len(recipient.keys()) <= 5
