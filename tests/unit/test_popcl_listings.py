"""popcl's reading of CAPA, STAT, LIST and UIDL: what servers say of themselves, and what they cannot mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.popcl.listings import (
    MAX_LINE,
    MAX_MESSAGES,
    Uids,
    lines,
    parse_capabilities,
    parse_sizes,
    parse_stat,
)
from commands.popcl.protocol import ProtocolError


@given(st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b"1 2"]) | st.binary(max_size=5)))
def test_lines_do_not_depend_on_the_pieces(pieces: list[bytes]) -> None:
    whole = b"".join(pieces) + b"\n"
    assert list(lines([whole], 1000)) == list(lines([*pieces, b"\n"], 1000))
    assert list(lines([whole], 1000)) == [line.removesuffix(b"\r") for line in whole.split(b"\n")[:-1]]


def test_a_list_has_its_limits_and_is_cut_off_there() -> None:
    def endless(piece: bytes):
        while True:
            yield piece

    for piece in (b"x", b"1 1\r\n", b"x" * (MAX_LINE + 1) + b"\r\n"):
        with pytest.raises(ProtocolError, match="list has"):
            list(lines(endless(piece), 10))


def test_capabilities() -> None:
    reply = [b"TOP", b"sasl PLAIN  scram-sha-256", b"IMPLEMENTATION \xff", b""]
    assert parse_capabilities(reply) == {
        "TOP": (),
        "SASL": ("PLAIN", "SCRAM-SHA-256"),
        "IMPLEMENTATION": ("\ufffd",),
        "": (),
    }


@pytest.mark.parametrize(("text", "count"), [(b"0 0", 0), (b"2 320", 2), (b"3 99 and more", 3)])
def test_stat(text: bytes, count: int) -> None:
    assert parse_stat(text) == count


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"2",
        b"-1 0",
        b"+1 0",
        b"1_0 0",
        b"\xd9\xa1 0",
        b"2 x",
        b"0x1 0",
        b"2  3",
        str(MAX_MESSAGES + 1).encode() + b" 0",
    ],
)
def test_a_wrong_stat(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_stat(text)


def test_sizes() -> None:
    assert list(parse_sizes([b"1 120", b"2 0"], 2)) == [120, 0]
    assert list(parse_sizes([b"2  7 x", b"1 120 "], 2)) == [120, 7]
    assert list(parse_sizes([], 0)) == []


@pytest.mark.parametrize(
    "reply",
    [
        [b"1 1"],
        [],
        [b"1 1", b"1 2"],
        [b"0 1", b"1 1"],
        [b"1 1", b"3 1"],
        [b"1 -1", b"2 1"],
        [b"1", b"2 1"],
        [b"1 1", b""],
    ],
)
def test_wrong_sizes(reply: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="than the 2"):
        parse_sizes(reply, 2)


@given(st.lists(st.sampled_from([b"1 1", b"2 2", b"3 3", b"2 99999999999999999999"]) | st.binary(max_size=8)))
def test_any_list_is_understood_or_refused(reply: list[bytes]) -> None:
    for read in (parse_sizes, Uids):
        try:
            read(reply, 3)
        except ProtocolError:
            continue


def test_unique_ids() -> None:
    uids = Uids([b"2 whqtswO00WBw418f9t5JxYwZ", b"1 \xff "], 3)
    assert [uids[number] for number in (1, 2, 3)] == [b"\xff", b"whqtswO00WBw418f9t5JxYwZ", None]


@pytest.mark.parametrize("reply", [[b"0 a"], [b"4 a"], [b"1 a", b"1 a"], [b"1 a b"], [b"1"], [b"x a"]])
def test_wrong_unique_ids(reply: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="of its 3 messages"):
        Uids(reply, 3)
