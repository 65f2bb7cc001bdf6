"""Quoting, line ends and the From_ line of stored messages."""

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stubmail.mbox.format import MAX_SENDER, ToStored, ToWire, WireLength, from_line, to_stored, to_wire, wire_length

# Octets that matter to the format, in words and alone, so that every pattern and every split of one comes up.
WORDS = [
    b"From ",
    b"From",
    b"Fro",
    b"F",
    b">",
    b">>",
    b"\n",
    b"\r\n",
    b"\r",
    b"\n\n",
    b"\n\r\n",
    b" ",
    b"a",
    b"\0",
    b"\xff",
]
content = st.lists(st.sampled_from(WORDS), max_size=24).map(b"".join)
lines = st.lists(
    st.lists(st.sampled_from([word for word in WORDS if not set(word) & set(b"\r\n")]), max_size=5).map(b"".join),
    max_size=8,
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut data at the given places, taken modulo its length."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def run(machine: ToStored | ToWire, parts: list[bytes]) -> bytes:
    return b"".join(map(machine.feed, parts)) + machine.finish()


def as_lines(data: bytes) -> bytes:
    """What a message means: its lines, each ended by LF."""
    text = re.sub(rb"\r\n|\r", b"\n", data)
    return text + b"\n" if text and not text.endswith(b"\n") else text


@given(content, st.lists(st.integers(0, 200)))
def test_storing_in_pieces_is_storing_at_once(data: bytes, cuts: list[int]) -> None:
    assert run(ToStored(), pieces(data, cuts)) == run(ToStored(), [data]) == to_stored(data)


@given(content, st.lists(st.integers(0, 200)))
def test_serving_in_pieces_is_serving_at_once(data: bytes, cuts: list[int]) -> None:
    assert run(ToWire(), pieces(data, cuts)) == run(ToWire(), [data]) == to_wire(data)


@given(content, st.lists(st.integers(0, 200)))
def test_wire_length_is_the_length_of_what_is_served(data: bytes, cuts: list[int]) -> None:
    served = len(run(ToWire(), [data]))
    counter = WireLength()
    for piece in pieces(data, cuts):
        counter.feed(piece)
    assert counter.finish() == wire_length(data) == served


@given(lines)
def test_message_with_crlf_lines_round_trips_octet_for_octet(message: list[bytes]) -> None:
    data = b"".join(line + b"\r\n" for line in message)
    assert run(ToWire(), [run(ToStored(), [data])]) == data


@given(content)
@example(b"\r\r\nFrom x")
@example(b"\r")
def test_any_message_keeps_its_lines(data: bytes) -> None:
    stored = run(ToStored(), [data])
    assert run(ToWire(), [stored]) == as_lines(data).replace(b"\n", b"\r\n")


@given(content)
def test_stored_content_follows_the_quoting_rule_line_by_line(data: bytes) -> None:
    quoted = [b">" + line if re.match(rb">*From ", line) else line for line in as_lines(data).split(b"\n")]
    assert run(ToStored(), [data]) == b"\n".join(quoted)


@given(content)
def test_what_is_served_is_stable(data: bytes) -> None:
    """A message stored by whatever program, fetched and delivered again, is served as before."""
    served = run(ToWire(), [data])
    assert run(ToWire(), [run(ToStored(), [served])]) == served


@pytest.mark.parametrize(
    ("stored", "served"),
    [
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\rb", b"a\r\nb\r\n"),
        (b"a\r", b"a\r\n"),
        (b"a\n\rb\n", b"a\r\n\r\nb\r\n"),
        (b"nul\0 and \xff\n", b"nul\0 and \xff\r\n"),
        (b">From me\n>>From you\n> From\n", b"From me\r\n>From you\r\n> From\r\n"),
        (b"a\r>From me\n", b"a\r\n>From me\r\n"),
        (b"", b""),
    ],
)
def test_served_lines(stored: bytes, served: bytes) -> None:
    assert run(ToWire(), [stored]) == served


def test_a_long_run_of_quote_marks_costs_no_memory() -> None:
    storing, serving = ToStored(), ToWire()
    marks = b">" * 65536
    stored = [storing.feed(marks) for _ in range(20)] + [storing.feed(b"From x"), storing.finish()]
    assert max(map(len, stored)) <= len(marks)
    assert b"".join(stored) == marks * 20 + b">From x\n"
    served = [serving.feed(piece) for piece in stored]
    assert b"".join(served) + serving.finish() == marks * 20 + b"From x\r\n"


@given(st.text(alphabet=st.characters(), max_size=50), st.floats())
def test_from_line_is_one_line_of_separate_fields(sender: str, when: float) -> None:
    assert re.fullmatch(
        rb"From [^\x00-\x20\x7f]+ [A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d \d{4}\n", from_line(sender, when)
    )


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("", b"MAILER-DAEMON"),
        ("a@b.example\nFrom c", b"a@b.example-From-c"),
        ("jörg@b.example", "jörg@b.example".encode()),
        ("x" * 2000, b"x" * MAX_SENDER),
        ("a\udc80", b"a?"),
        ("\ud800", b"?"),
    ],
)
def test_from_line_of_senders(sender: str, expected: bytes) -> None:
    assert from_line(sender, 0) == b"From " + expected + b" Thu Jan  1 00:00:00 1970\n"
