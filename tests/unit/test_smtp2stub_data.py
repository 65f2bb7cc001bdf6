"""The text behind DATA: its end, dot-stuffing, and what makes a message unacceptable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.smtp2stub.data import MAX_LINE, DataReader, Fault

LINES = st.lists(st.binary(max_size=20).map(lambda line: line.translate(None, b"\r\n\0")), max_size=12)


def stuffed(lines: list[bytes]) -> bytes:
    """What a client sends for these lines (RFC 5321 §4.5.2)."""
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"


def read(pieces: list[bytes], max_size: int = 10_000) -> tuple[DataReader, bytes]:
    reader = DataReader(max_size)
    text = b""
    for number, piece in enumerate(pieces):
        text += reader.feed(piece)
        if reader.finished:
            reader.rest += b"".join(pieces[number + 1 :])
            break
    return reader, text


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@given(LINES, st.binary(max_size=10), st.data())
def test_every_message_comes_through_whole_however_it_is_cut(
    lines: list[bytes], behind: bytes, data: st.DataObject
) -> None:
    wire = stuffed(lines) + behind
    cut = data.draw(st.integers(0, len(wire)))
    for pieces in ([wire], one_by_one(wire), [wire[:cut], wire[cut:]]):
        reader, text = read(pieces)
        assert reader.finished
        assert reader.fault is None
        assert text == b"".join(line + b"\r\n" for line in lines)
        assert reader.rest == behind
        assert reader.size == len(text)
        assert reader.eight_bit == (not text.isascii())


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\0", b"\xff"]), max_size=20))
def test_any_octets_give_the_same_whole_and_one_by_one(parts: list[bytes]) -> None:
    wire = b"".join(parts)
    whole, text = read([wire])
    single, same = read(one_by_one(wire))
    assert (whole.finished, whole.rest) == (single.finished, single.rest)
    if whole.fault is None or not whole.finished:
        assert (whole.fault is None) == (single.fault is None)
    if whole.finished and whole.fault is None:
        assert text == same


@pytest.mark.parametrize(
    "end",
    [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\r\n\n.\r\n", b"\r\n.\r\r\n", b"\n\n.\r\n"],
)
def test_what_only_other_servers_take_for_the_end_is_none_and_is_refused(end: bytes) -> None:
    smuggled = b"From: a@b\r\n\r\nhello" + end + b"MAIL FROM:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n"
    reader, _ = read([smuggled])
    assert not reader.finished
    text = reader.feed(b"\r\n.\r\n")
    assert reader.finished
    assert reader.fault is Fault.BARE
    assert text == b""


def test_an_empty_message_ends_at_once() -> None:
    reader, text = read([b".\r\nQUIT\r\n"])
    assert (reader.finished, text, reader.rest) == (True, b"", b"QUIT\r\n")


@pytest.mark.parametrize(("length", "fault"), [(MAX_LINE, None), (MAX_LINE + 1, Fault.LONG_LINE)])
def test_a_line_may_have_998_octets(length: int, fault: Fault | None) -> None:
    for wire in ([b"x" * length + b"\r\n.\r\n"], [b"x" * 500, b"x" * (length - 500), b"\r\n.\r\n"]):
        assert read(wire)[0].fault is fault


def test_a_dot_that_is_taken_away_does_not_count() -> None:
    assert read([b"." + b"." * MAX_LINE + b"\r\n.\r\n"])[0].fault is None


@pytest.mark.parametrize(("size", "fault"), [(100, None), (99, Fault.TOO_LARGE)])
def test_the_size_limit_counts_the_message_s_octets(size: int, fault: Fault | None) -> None:
    reader, text = read([b"x" * 98 + b"\r\n.\r\nQUIT"], max_size=size)
    assert reader.finished
    assert reader.fault is fault
    assert text == (b"" if fault else b"x" * 98 + b"\r\n")
    assert reader.rest == b"QUIT"


def test_a_message_over_the_limit_is_read_to_its_end_without_keeping_it() -> None:
    reader = DataReader(1000)
    kept = sum(len(reader.feed(b"y" * 70 + b"\r\n")) for _ in range(10_000))
    reader.feed(b".\r\n")
    assert reader.finished
    assert reader.fault is Fault.TOO_LARGE
    assert kept <= 1000


def test_nul_is_refused() -> None:
    assert read([b"a\0b\r\n.\r\n"])[0].fault is Fault.NUL
