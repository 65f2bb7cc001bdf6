"""What becomes of a submitted message's header, and which headers are refused."""

from datetime import UTC, datetime
from email import message_from_bytes, policy

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.smtp2stub.submission import MAX_HEADER, MAX_HOPS, Trace, parse_fields, prepare, split_header
from stubmail.address import Address
from stubmail.errors import PermanentError

WHEN = datetime(2026, 11, 21, 9, 0, 0, tzinfo=UTC)
TRACE = Trace("laptop.example", "192.0.2.7", "alpha.example", "ESMTPSA", "1K0RSDH7FNVKBET")
FROM = b"From: Alice <alice@alpha.example>\r\n"


def prepared(fields: bytes, *, utf8: bool = False) -> bytes:
    return prepare(fields, TRACE, WHEN, "id-1", utf8=utf8).header


def refusal(fields: bytes, *, utf8: bool = False) -> str:
    with pytest.raises(PermanentError) as caught:
        prepare(fields, TRACE, WHEN, "id-1", utf8=utf8)
    return f"{caught.value.code} {caught.value.text}"


def test_what_is_missing_is_added() -> None:
    header = prepared(FROM)
    message = message_from_bytes(header, policy=policy.SMTP)
    assert header.startswith(b"Received: from laptop.example ([192.0.2.7])\r\n\tby alpha.example with ESMTPSA id 1K0R")
    assert header.endswith(b"\r\n\r\n")
    assert message["Date"] == "Sat, 21 Nov 2026 09:00:00 +0000"
    assert message["Message-ID"] == "<id-1@alpha.example>"
    assert message["From"] == "Alice <alice@alpha.example>"


def test_what_is_there_stays_as_it_is_and_where_it_is() -> None:
    fields = b"Subject: =?utf-8?q?hi?=\r\n\tthere\r\ndate: yesterday\r\nMESSAGE-ID: <x@y>\r\n" + FROM + b"X: 1\r\n"
    assert prepared(fields) == TRACE.field(WHEN) + fields + b"\r\n"


@pytest.mark.parametrize("name", [b"Bcc", b"BCC", b"bcc", b"Resent-Bcc"])
def test_nobody_sees_blind_copies(name: bytes) -> None:
    header = prepared(FROM + name + b": secret@example.org,\r\n other@example.org\r\nTo: bob@beta.example\r\n")
    assert b"secret" not in header
    assert b"other" not in header
    assert b"\r\nTo: bob@beta.example\r\n" in header


@pytest.mark.parametrize("helo", ["a b", "x\r\nX-Evil: 1", "x)", "", "é", "(", "a" * 300])
def test_what_a_client_calls_itself_cannot_break_out_of_received(helo: str) -> None:
    line = Trace(helo, "2001:db8::1", "h.example", "ESMTP", "ID").field(WHEN)
    assert line.startswith(b"Received: from unknown ([IPv6:2001:db8::1])\r\n")
    assert line.count(b"\r\n") == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (b"Subject: x\r\n", "no From"),
        (b"", "no From"),
        (FROM + FROM, "2 From"),
        (b"From: a@b.example, c@d.example\r\n", "exactly one address"),
        (b"From: friends: a@b.example;\r\n", "exactly one address"),
        (b"From: \r\n", "exactly one address"),
        (b"From: undisclosed\r\n", "exactly one address"),
        (b"From : alice@alpha.example\r\n", "line 1"),
        (b" continued\r\n" + FROM, "line 1"),
        (FROM + b"no colon here\r\n", "line 2"),
        (FROM + b": no name\r\n", "line 2"),
        (FROM + "Subject: é\r\n".encode(), "SMTPUTF8"),
        (FROM + b"Received: x\r\n" * (MAX_HOPS + 1), "5.4.6"),
    ],
)
def test_headers_that_are_refused(fields: bytes, words: str) -> None:
    assert words in refusal(fields)


def test_smtputf8_allows_utf8_and_nothing_else() -> None:
    assert "é".encode() in prepared(FROM + "Subject: é\r\n".encode(), utf8=True)
    assert "not UTF-8" in refusal(FROM + b"Subject: \xe9\r\n", utf8=True)


def test_the_sender_is_the_address_in_from() -> None:
    fields = b'From: "Alice, from (work)" <alice+work@ALPHA.example>\r\n'
    assert prepare(fields, TRACE, WHEN, "i", utf8=False).sender == Address("alice+work", "alpha.example")


def test_splitting_header_and_body() -> None:
    assert split_header(b"A: 1\r\nB: 2\r\n\r\nbody") == (b"A: 1\r\nB: 2\r\n", 14)
    assert split_header(b"\r\nbody") == (b"", 2)
    assert split_header(b"A: 1\r\n") == (b"A: 1\r\n", 6)
    assert split_header(b"") == (b"", 0)
    with pytest.raises(PermanentError, match="longer"):
        split_header(b"A: 1\r\n" * MAX_HEADER)


FIELDS = st.lists(
    st.one_of(
        st.binary(max_size=30).map(lambda line: line.translate(None, b"\r\n\0") + b"\r\n"),
        st.sampled_from([FROM, b"Bcc: x@y.example\r\n", b" folded\r\n", b"Date: today\r\n", b"From: a@b.example\r\n"]),
    ),
    max_size=8,
).map(b"".join)


@given(FIELDS, st.booleans())
@example(b"From: (\r\n", False)
@example(b'From: "\xc3\xa9\r\n', True)
def test_any_header_is_prepared_or_refused(fields: bytes, utf8: bool) -> None:
    try:
        result = prepare(fields, TRACE, WHEN, "i", utf8=utf8)
    except PermanentError:
        return
    found = parse_fields(result.header[:-2])
    names = [name for name, _ in found]
    assert names.count(b"from") == 1
    assert {b"date", b"message-id", b"received"} <= set(names)
    assert b"bcc" not in names
    assert result.header.endswith(b"\r\n\r\n")
    assert b"\r\n\r\n" not in result.header[:-2]
