"""The delivered form: trace fields in front, forged ones gone, every other octet as it was."""

import re
from datetime import UTC, datetime
from itertools import takewhile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.http2mbox.delivered import Receipt, delivered_form, trace_fields, without_forged
from services.http2mbox.header import fields, has_bare_cr, section_end
from stubmail.address import Address

RECEIPT = Receipt(
    store_host="post.alpha.example",
    recipient=Address("bob", "beta.example"),
    post_id=bytes(range(16)),
    sender=Address("alice", "alpha.example"),
    fingerprint="A1" * 20,
    at=datetime(2026, 11, 21, 9, 30, 5, tzinfo=UTC),
)
TRACE = (
    b"Received: from post.alpha.example by beta.example with STUB id 000102030405060708090a0b0c0d0e0f"
    b" for <bob@beta.example>; Sat, 21 Nov 2026 09:30:05 +0000\r\n"
    b"Authentication-Results: beta.example; x-stub=pass header.from=alice@alpha.example x-stub.fingerprint="
    + b"A1" * 20
    + b"\r\n"
)


def test_two_fields_stand_in_front_and_nothing_else_changes() -> None:
    message = b"From: alice@alpha.example\r\nX-Odd:  \t kept \r\n\r\nbody\r\n\r\nlast line without end"
    assert delivered_form(message, RECEIPT) == TRACE + message


def test_a_message_without_a_body_or_header_gets_them_too() -> None:
    assert delivered_form(b"", RECEIPT) == TRACE
    assert delivered_form(b"\r\nbody", RECEIPT) == TRACE + b"\r\nbody"


def test_addresses_beyond_ascii_stand_in_utf8() -> None:
    receipt = Receipt("h.example", Address("bøb", "beta.example"), bytes(16), RECEIPT.sender, "A1" * 20, RECEIPT.at)
    assert "for <bøb@beta.example>;".encode() in trace_fields(receipt)


def test_the_longest_names_fit_into_a_line() -> None:
    domain = ".".join(["d" * 61] * 4)[:246]
    address = Address("l" * 64, domain[: 254 - 65])
    receipt = Receipt(domain, address, bytes(16), address, "F" * 64, RECEIPT.at)
    assert max(map(len, trace_fields(receipt).split(b"\r\n"))) <= 998  # RFC 5322 §2.1.1


@pytest.mark.parametrize(
    "field",
    [
        b"Authentication-Results: beta.example; spf=pass\r\n",
        b"authentication-results:beta.example;dkim=pass\r\n",
        b"Authentication-Results : beta.example; x=pass\r\n",
        b"Authentication-Results: beta.example 1; x=pass\r\n",
        b"Authentication-Results: BETA.Example.; x=pass\r\n",
        b'Authentication-Results: "beta.example"; x=pass\r\n',
        b'Authentication-Results: "beta\\.example"; x=pass\r\n',
        b"Authentication-Results: (c) (d(e\\)f)) beta.example; x=pass\r\n",
        b"Authentication-Results:\r\n\tbeta.example;\r\n\tx=pass\r\n",
        b"Authentication-Results:\n beta.example; x=pass\n",
        b"Authentication-Results: beta.example\r\n",
    ],
)
def test_results_that_claim_to_be_our_own_are_removed(field: bytes) -> None:
    rest = b"From: alice@alpha.example\r\n", b"Subject: x\r\n\r\nAuthentication-Results: beta.example; in=body\r\n"
    assert without_forged(rest[0] + field + rest[1], "beta.example") == b"".join(rest)


@pytest.mark.parametrize(
    "field",
    [
        b"Authentication-Results: gamma.example; spf=pass\r\n",
        b"Authentication-Results: not.beta.example; spf=pass\r\n",
        b'Authentication-Results: gamma.example; reason="beta.example"\r\n',
        b"Authentication-Results: (beta.example) gamma.example; x=pass\r\n",
        b"Authentication-Results: (beta.example; x=pass\r\n",
        b"X-Authentication-Results: beta.example; x=pass\r\n",
        b"ARC-Authentication-Results: i=1; beta.example; x=pass\r\n",
        b"Authentication-Results: ; x=pass\r\n",
        b"Subject: x\r\n\tAuthentication-Results: beta.example; folded\r\n",
    ],
)
def test_results_of_others_stay(field: bytes) -> None:
    message = b"From: a@b.example\r\n" + field + b"\r\nbody"
    assert without_forged(message, "beta.example") is message


@pytest.mark.parametrize(
    "field",
    [
        b"Received: from x by beta.example with STUB id 00; Sat, 21 Nov 2026 09:30:05 +0000\r\n",
        b"received : from x\r\n\t(y)\r\n\tBY\tBETA.example. (z)\r\n\twith stub; today\r\n",
        b"Received: by (c) beta.example via TCP with (d) STUB;\n",
    ],
)
def test_arrivals_that_claim_to_be_our_own_are_removed(field: bytes) -> None:
    rest = b"From: alice@alpha.example\r\n", b"Subject: x\r\n\r\n" + field
    assert without_forged(rest[0] + field + rest[1], "beta.example") == b"".join(rest)


@pytest.mark.parametrize(
    "field",
    [
        b"Received: from alice by alpha.example with ESMTPSA id 1; Sat, 21 Nov 2026 09:30:05 +0000\r\n",
        b"Received: from beta.example by alpha.example with STUB id 1; today\r\n",
        b"Received: from alpha.example by beta.example with ESMTP id 1; today\r\n",
        b"Received: from with STUB by not.beta.example with ESMTP; today\r\n",
        b"Received: by\r\n",
        b"X-Received: by beta.example with STUB; today\r\n",
    ],
)
def test_arrivals_elsewhere_stay(field: bytes) -> None:
    message = b"From: a@b.example\r\n" + field + b"\r\nbody"
    assert without_forged(message, "beta.example") is message


def test_several_forged_fields_go() -> None:
    forged = b"Authentication-Results: beta.example; x=pass\r\n"
    assert without_forged(forged + b"A: b\r\n" + forged + forged + b"\r\nbody", "beta.example") == b"A: b\r\n\r\nbody"
    arrival = b"Received: by beta.example with STUB; today\r\n"
    message = arrival + forged + b"A: b\r\n" + arrival + forged + b"\r\nbody"
    assert without_forged(message, "beta.example") == b"A: b\r\n\r\nbody"


def test_a_header_ends_at_the_first_empty_line_whatever_its_line_ends() -> None:
    assert section_end(b"A: b\r\nC: d\r\n\r\nE: f\r\n") == 12
    assert section_end(b"A: b\nC: d\n\nE: f\n") == 10
    assert section_end(b"A: b\nC: d\n\r\nE: f\n") == 10
    assert section_end(b"A: b\r\n") == 6
    assert section_end(b"\r\nA: b\r\n") == section_end(b"\nA: b\n") == 0


def test_only_a_carriage_return_in_the_header_that_ends_no_line_is_noticed() -> None:
    assert has_bare_cr(b"A: b\rFrom: c\r\n\r\nbody")
    assert has_bare_cr(b"A: b\r\r\nB: c\r\n\r\nbody")
    assert not has_bare_cr(b"A: b\r\n\r\nbo\rdy")


lines = st.sampled_from(
    [
        b"From",
        b"Authentication-Results",
        b":",
        b" ",
        b"\t",
        b"\r\n",
        b"\n",
        b"\r",
        b"beta.example",
        b";",
        b"(",
        b'"',
        b"\\",
    ]
)
messages = st.lists(lines | st.binary(max_size=3), max_size=30).map(b"".join)


@given(messages)
@example(b"A: b\n\n\r\n")
def test_the_header_is_what_precedes_the_first_empty_line(message: bytes) -> None:
    every_line = re.findall(rb"[^\n]*\n|[^\n]+\Z", message)
    header = b"".join(takewhile(lambda line: line not in (b"\n", b"\r\n"), every_line))
    assert message[: section_end(message)] == header
    assert has_bare_cr(message) == bool(re.search(rb"\r(?!\n)", header))


@given(messages)
def test_any_octets_have_fields_in_order_and_removal_removes_whole_fields(message: bytes) -> None:
    end = section_end(message)
    position = 0
    for start, stop, _ in fields(message, b"Authentication-Results"):
        assert position <= start < stop <= end
        position = stop
    stripped = without_forged(message, "beta.example")
    assert without_forged(stripped, "beta.example") == stripped
    assert stripped.endswith(message[end:])
