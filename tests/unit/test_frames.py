"""The frames of a fetch answer (protocol.md §5.4): the same events however they are cut, nothing whole is lost."""

import contextlib
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.frames import ABSENT, CONTENT, END, HEADER_SIZE, LAST, WITHDRAWN, Frame, FrameError, FrameReader

IDS = st.binary(min_size=16, max_size=16)
NUMBERS = st.integers(0, 2**64 - 1)
POST = bytes(range(16))

Posts = list[tuple[Frame, bytes]]


@st.composite
def posts(draw: st.DrawFn) -> Posts:
    """Frames with their contents, as an honest store sends them."""
    made = []
    for post_id in draw(st.lists(IDS, max_size=4)):
        if draw(st.booleans()):
            content = draw(st.binary(max_size=100))
            made.append((Frame(post_id, CONTENT, draw(NUMBERS), len(content)), content))
        else:
            made.append((Frame(post_id, draw(st.sampled_from((ABSENT, WITHDRAWN)))), b""))
    return made


def wire(made: Posts) -> bytes:
    return b"".join(frame.to_wire() + content for frame, content in made) + END.to_wire()


def read(data: bytes, cuts: list[int] | None = None) -> tuple[list[Frame | bytes], str]:
    """Feed the octets in pieces; return the events, contents joined, and the error's text, if one ended it."""
    reader = FrameReader()
    events: list[Frame | bytes] = []
    try:
        for piece in pieces(data, cuts or []):
            events += reader.feed(piece)
        reader.close()
        error = ""
    except FrameError as caught:
        error = str(caught)
    joined: list[Frame | bytes] = []
    for event in events:
        if isinstance(event, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += event
        else:
            joined.append(event)
    return joined, error


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(IDS, st.sampled_from((ABSENT, WITHDRAWN)))
def test_a_frame_without_content(post_id: bytes, state: int) -> None:
    frame = Frame(post_id, state)
    assert frame.to_wire() == post_id + bytes((state,)) + bytes(23)
    assert Frame.from_wire(frame.to_wire()) == frame


@given(IDS, NUMBERS, NUMBERS)
def test_a_frame_with_content(post_id: bytes, offset: int, length: int) -> None:
    frame = Frame(post_id, CONTENT, offset, length)
    assert frame.to_wire() == post_id + bytes(8) + struct.pack(">QQ", offset, length)
    assert Frame.from_wire(frame.to_wire()) == frame


@given(st.binary(max_size=48) | st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_any_octets_are_a_frame_or_a_frame_error(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        assert Frame.from_wire(data).to_wire() == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "40 octets"),
        (POST + bytes(23), "40 octets"),
        (POST + bytes(25), "40 octets"),
        (POST + b"\x03" + bytes(23), "unknown state 3"),
        (POST + b"\x00\x01" + bytes(22), "reserved octets"),
        (POST + b"\x01" + bytes(22) + b"\x01", "has an offset or a length"),
        (POST + b"\x02" + bytes(14) + b"\x01" + bytes(8), "has an offset or a length"),
        (POST + b"\xff" + bytes(23), "the end frame has an id"),
        (bytes(16) + b"\xff" + bytes(22) + b"\x01", "has an offset or a length"),
    ],
)
def test_no_frames(data: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        Frame.from_wire(data)


@given(posts(), st.lists(st.integers(0), max_size=10))
def test_posts_arrive_however_they_are_cut(made: Posts, cuts: list[int]) -> None:
    wanted: list[Frame | bytes] = []
    for frame, content in made:
        wanted += [frame, content] if content else [frame]
    data = wire(made)
    assert read(data, cuts) == ([*wanted, END], "")
    assert read(data, list(range(len(data)))) == ([*wanted, END], ""), "octet by octet"


@given(posts(), st.integers(0), st.binary(max_size=3), st.lists(st.integers(0), max_size=5))
def test_damaged_octets_give_the_same_events_however_they_are_cut(
    made: Posts, at: int, junk: bytes, cuts: list[int]
) -> None:
    data = bytearray(wire(made))
    at %= len(data)
    data[at : at + len(junk)] = junk
    whole = read(bytes(data))
    assert read(bytes(data), cuts) == whole
    assert read(bytes(data), list(range(len(data)))) == whole


@given(st.binary(max_size=200), st.lists(st.integers(0), max_size=5))
def test_any_octets_are_frames_or_a_frame_error(data: bytes, cuts: list[int]) -> None:
    assert read(data, cuts) == read(data)


@given(posts(), st.integers(0))
def test_a_truncated_answer_keeps_what_came_whole(made: Posts, cut: int) -> None:
    data = wire(made)
    events, error = read(data[: cut % len(data)])
    assert error == "the octets break off before the end frame"
    whole = read(data)[0][: len(events)]
    assert events[:-1] == whole[:-1]
    if events:
        last, full = events[-1], whole[-1]
        assert last == full or (isinstance(last, bytes) and isinstance(full, bytes) and full.startswith(last))


def test_what_came_whole_before_malformed_octets_is_not_lost() -> None:
    good = Frame(POST, CONTENT, 0, 3).to_wire() + b"abc"
    reader = FrameReader()
    assert reader.feed(good + b"\xee" * 40) == [Frame(POST, CONTENT, 0, 3), b"abc"]
    for _ in range(2):
        with pytest.raises(FrameError, match="reserved octets"):
            reader.feed(END.to_wire())
    with pytest.raises(FrameError, match="reserved octets"):
        reader.close()


def test_nothing_may_follow_the_end() -> None:
    reader = FrameReader()
    assert reader.feed(END.to_wire() + b"x") == [END]
    assert reader.finished
    with pytest.raises(FrameError, match="after the end"):
        reader.close()
    assert Frame(bytes(16), LAST) == END


def test_contents_are_passed_on_not_collected() -> None:
    """A post of any length takes no more memory than the pieces it is fed in."""
    reader = FrameReader()
    reader.feed(Frame(POST, CONTENT, 0, 2**63).to_wire())
    for _ in range(1000):
        assert reader.feed(b"x" * 1000) == [b"x" * 1000]
    assert reader._buffer == b""
