"""Byte-stuffing and TOP, over messages cut anywhere."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pop3d.stuffing import END, stuff, stuff_whole, top
from stubmail.line_ends import LineEnds

lines = st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a", b"a.", b"\0.", b"\xff"]) | st.binary(max_size=6))
messages = lines.map(lambda parts: b"".join(re.sub(rb"[\r\n]", b"", part) + b"\r\n" for part in parts))
raw = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\0", b"\xe9"])).map(b"".join)


@st.composite
def cut(draw: st.DrawFn, contents: st.SearchStrategy[bytes] = messages) -> tuple[bytes, list[bytes]]:
    """A message, and the same in pieces, some of them empty."""
    message = draw(contents)
    places = sorted(draw(st.lists(st.integers(0, len(message)), max_size=8)))
    edges = [0, *places, len(message)]
    return message, [message[start:end] for start, end in pairwise(edges)]


def unstuff(reply: bytes) -> bytes:
    """What a client makes of a multi-line reply (RFC 1939 §3); the end must not come before the end."""
    content, _, rest = b"\r\n".join([b"", reply]).partition(b"\r\n.\r\n")
    assert rest == b"", "the message was ended early"
    return re.sub(rb"\r\n\.", b"\r\n", content + b"\r\n")[2:]


@given(cut())
def test_a_client_gets_the_message_back_however_it_was_cut(case: tuple[bytes, list[bytes]]) -> None:
    message, pieces = case
    assert unstuff(b"".join(stuff(pieces)) + END) == message


@given(cut(raw))
def test_a_whole_message_is_stuffed_as_one_in_pieces(case: tuple[bytes, list[bytes]]) -> None:
    message, pieces = case
    assert stuff_whole(message) == b"".join(stuff(pieces))


def test_a_full_stop_at_a_cut_is_doubled_only_at_the_beginning_of_a_line() -> None:
    assert b"".join(stuff([b"a\r\n", b".\r\n", b"b", b".\r\n"])) == b"a\r\n..\r\nb.\r\n"
    assert b"".join(stuff([b".", b".", b"\r\n"])) == b"...\r\n"


def test_a_bare_line_feed_cannot_end_the_message_for_a_lax_client() -> None:
    assert b"".join(stuff([b"a\n.\r\n"])) == b"a\n..\r\n"


@given(cut(), st.integers(0, 6))
def test_top_is_header_empty_line_and_so_many_lines(case: tuple[bytes, list[bytes]], wanted: int) -> None:
    message, pieces = case
    every = message.split(b"\r\n")[:-1]
    body = every.index(b"") + 1 if b"" in every else len(every)
    assert b"".join(top(pieces, wanted)) == b"".join(line + b"\r\n" for line in every[: body + wanted])


def test_top_reads_no_further_than_it_must() -> None:
    def endless():
        yield b"Subject: x\r\n\r\n1\r\n2\r\n"
        raise AssertionError("read on")

    assert b"".join(top(endless(), 2)) == b"Subject: x\r\n\r\n1\r\n2\r\n"


@given(cut(raw))
def test_every_line_end_becomes_crlf_however_it_was_cut(case: tuple[bytes, list[bytes]]) -> None:
    content, pieces = case
    line_ends = LineEnds()
    wire = b"".join([line_ends.feed(piece) for piece in pieces]) + line_ends.finish()
    text = re.sub(rb"\r\n|\r|\n", b"\n", content)
    if text and not text.endswith(b"\n"):
        text += b"\n"
    assert wire == text.replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    ("stored", "wire"),
    [
        (b"", b""),
        (b"a", b"a\r\n"),
        (b"\r", b"\r\n"),
        (b"a\r\r\nb", b"a\r\n\r\nb\r\n"),
        (b"\n\n", b"\r\n\r\n"),
        (b"a\0", b"a\0\r\n"),
    ],
)
def test_line_ends(stored: bytes, wire: bytes) -> None:
    line_ends = LineEnds()
    assert line_ends.feed(stored) + line_ends.finish() == wire
