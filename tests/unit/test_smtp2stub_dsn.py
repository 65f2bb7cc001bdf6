"""Notices of failed deliveries: readable by people and programs, and silent about the message's text."""

from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.smtp2stub.dsn import build, notice_id, parse_notice_id, statuses
from stubmail.address import Address
from stubmail.dsn import Action, RecipientStatus
from stubmail.queue import Item, Outcome, Progress, Recipient, State

ALICE = Address("alice", "alpha.example")
BOB = Address("bob", "beta.example")
HEADER = b"From: alice@alpha.example\r\nSubject: the plan\r\nTo: bob@beta.example\r\n\r\nThe secret body\r\n"


def item(*, utf8: bool = False) -> Item:
    return Item("1K0RSDH7FNVKBET", "alice", 1_800_000_000.0, ALICE, ALICE, (Recipient(BOB, bytes(16)),), 9, utf8)


def failure(text: str, code: str = "5.1.1") -> RecipientStatus:
    [status] = statuses(item(), Progress([Outcome(State.FAILED, code, text, "smarthost", 1)], notices=1), 1, 60.0)
    return status


def parsed(data: bytes) -> EmailMessage:
    message = message_from_bytes(data, policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    return message


def test_a_notice_says_who_why_and_which_message_but_not_its_text() -> None:
    data = build(item(), 1, [failure("no such user")], "alpha.example", HEADER, 1_800_000_100.0)
    message = parsed(data)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["To"] == "alice@alpha.example"
    assert message["Auto-Submitted"] == "auto-replied"
    text, status, header = message.iter_parts()
    assert "bob@beta.example" in text.get_content()
    assert "no such user" in text.get_content()
    assert status.get_content_type() == "message/delivery-status"
    per_message, per_recipient = status.get_payload()
    assert per_message["Reporting-MTA"] == "dns; alpha.example"
    assert per_recipient["Final-Recipient"] == "rfc822; bob@beta.example"
    assert per_recipient["Action"] == "failed"
    assert per_recipient["Status"] == "5.1.1"
    assert header.get_content_type() == "text/rfc822-headers"
    assert "the plan" in header.get_content()
    assert b"secret" not in data
    assert b"\n" not in data.replace(b"\r\n", b"")


def test_the_status_of_what_was_given_up_is_permanent() -> None:
    data = build(item(), 1, [failure("too late", "4.4.1")], "h.example", HEADER, 0.0)
    assert b"Status: 5.4.1\r\n" in data


def test_addresses_and_headers_beyond_ascii_use_the_global_types() -> None:
    header = "Subject: ünïcode\r\n\r\n".encode()
    message = parsed(build(item(utf8=True), 1, [failure("nein, ü")], "h.example", header, 0.0))
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "text/plain",
        "message/global-delivery-status",
        "message/global-headers",
    ]


@given(st.text(max_size=300), st.binary(max_size=200))
def test_no_reason_and_no_header_break_out_of_their_place(reason: str, header: bytes) -> None:
    data = build(item(), 3, [failure(reason)], "h.example", header.replace(b"\r", b"").replace(b"\n", b"\r\n"), 0.0)
    assert b"\n" not in data.replace(b"\r\n", b"")
    message = parsed(data)
    assert len(list(message.iter_parts())) == 3


def test_long_headers_are_cut_between_lines() -> None:
    header = b"From: a@b\r\n" + b"X: %s\r\n" % (b"y" * 70) * 1000
    data = build(item(), 1, [failure("x")], "h.example", header, 0.0)
    assert len(data) < 20_000
    assert b"X: " + b"y" * 70 + b"\r\n\r\n--" in data


def test_a_notice_s_id_tells_message_and_number() -> None:
    assert parse_notice_id(notice_id(item(), 7)) == ("1K0RSDH7FNVKBET", 7)
    with pytest.raises(ValueError):
        parse_notice_id("something else")


def test_what_a_notice_is_about_is_what_bears_its_number() -> None:
    recipients = tuple(
        Recipient(Address(name, "beta.example"), bytes(16), original=f"rfc822;{name}") for name in "abcdef"
    )
    progress = Progress(
        [
            Outcome(State.FAILED, "5.1.1", "no", "stub", 2),
            Outcome(State.DONE, "2.0.0", "", "stub", 2),
            Outcome(State.WAITING, "4.4.1", "DNS is silent"),
            Outcome(State.DONE, "2.0.0", "", "smarthost", -1),
            Outcome(State.FAILED, "5.1.1", "no", "stub", 1),
            Outcome(State.DONE, "2.0.0", "", "stub"),
        ],
        notices=2,
        delayed={2: 2, 5: 2},
    )
    found = statuses(replace(item(), recipients=recipients), progress, 2, 500.0)
    assert [(each.recipient.local, each.action, each.original) for each in found] == [
        ("a", Action.FAILED, "rfc822;a"),
        ("b", Action.RELAYED, "rfc822;b"),
        ("c", Action.DELAYED, "rfc822;c"),
    ]
    assert found[2].retry_until == item().accepted + 500.0


def test_ret_full_brings_back_the_header_alone() -> None:
    data = build(replace(item(), ret="FULL", envid="id+2B1"), 1, [failure("no")], "h.example", HEADER, 0.0)
    assert b"secret" not in data
    assert b"Original-Envelope-Id: id+1\r\n" in data
