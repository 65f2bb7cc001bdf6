"""The multipart reader: any octets are parts or a refusal, whole or in pieces, and never more are read than needed."""

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.post_manager.http.multipart import MultipartError, parse_boundary
from services.post_manager.http.parts import PIECE, Parts
from stubmail.request import Refusal
from tests.support.store import BOUNDARY, multipart

Part = tuple[str, bytes]


class Dripping(io.RawIOBase):
    """A stream that gives at most ``size`` octets at a time, and counts what it gave."""

    def __init__(self, data: bytes, size: int = PIECE) -> None:
        self.data = data
        self.size = size
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        piece = self.data[self.given : self.given + min(size, self.size)]
        self.given += len(piece)
        return piece


def read_all(data: bytes, size: int = PIECE, length: int | None = None) -> list[Part]:
    """Read a body of two parts and whatever follows, as far as it goes."""
    parts = Parts(Dripping(data, size), len(data) if length is None else length, BOUNDARY.encode())
    found = [(parts.begin(), parts.read(10**9)) for _ in range(2)]
    parts.end()
    return found


def outcome(read: Callable[[], list[Part]]) -> list[Part] | str:
    try:
        return read()
    except Refusal as refusal:
        return refusal.code


TWO = multipart([("request", b"{}"), ("mac", b"\r\n--012345\r\n" * 3)])


def test_parts_come_in_order_with_their_octets() -> None:
    assert read_all(TWO) == [("request", b"{}"), ("mac", b"\r\n--012345\r\n" * 3)]


def test_the_same_octets_one_by_one_are_the_same_parts() -> None:
    assert read_all(TWO, size=1) == read_all(TWO)


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 40))
def test_any_content_comes_through(first: bytes, second: bytes, size: int) -> None:
    body = multipart([("request", first), ("mac", second)])
    expected = [("request", first), ("mac", second)]
    if f"--{BOUNDARY}".encode() in first + second:
        return
    assert read_all(body, size) == expected


@given(st.binary(max_size=400), st.integers(1, 40))
def test_any_octets_are_parts_or_a_refusal(data: bytes, size: int) -> None:
    assert isinstance(outcome(lambda: read_all(data, size)), list | str)


@given(
    st.lists(
        st.sampled_from(
            [
                b"--" + BOUNDARY.encode(),
                b"--",
                b"\r\n",
                b"\n",
                b"\r",
                b" ",
                b":",
                b"\xff",
                b"Content-Disposition: form-data",
                b'; name="request"',
                b"; name*=utf-8''%ff",
                b"Content-Transfer-Encoding: base64",
                b"x" * 100,
            ]
        ),
        max_size=20,
    ).map(b"".join),
    st.integers(1, 200),
)
def test_any_mixture_of_its_pieces_is_parts_or_a_refusal(data: bytes, size: int) -> None:
    assert isinstance(outcome(lambda: read_all(data, size)), list | str)


@given(st.integers(0, len(TWO) - 1), st.integers(1, 100))
def test_a_body_that_breaks_off_is_malformed(cut: int, size: int) -> None:
    complete = cut == len(TWO) - 2  # the line end behind the last boundary may be missing, as a whole
    assert outcome(lambda: read_all(TWO[:cut], size)) == (read_all(TWO) if complete else "malformed")
    assert outcome(lambda: read_all(TWO[:cut], size, length=len(TWO))) == "malformed"


@pytest.mark.parametrize(
    "body",
    [
        b"preamble\r\n" + TWO,
        TWO + b"epilogue",
        TWO.replace(b"\r\n", b"\n"),
        TWO.replace(b"--0123456789abcdef\r\n", b"--0123456789abcdef \r\n"),
        TWO + b"\r\n" * 200_000,
        TWO.replace(b'; name="mac"', b'; name="mac"\r\nContent-Transfer-Encoding: base64'),
        TWO.replace(b'; name="mac"', b'; name="mac"\r\nX: ' + b"x" * 2000),
        TWO.replace(b'; name="mac"', b'; name="mac"\r\nX: ' + b"x" * 200_000),
        TWO.replace(b"Content-Disposition", b"Disposition"),
        multipart([("request", b"{}")]),
        multipart([("request", b"{}"), ("mac", b""), ("part", b"")]),
        b"",
    ],
    ids=[
        "preamble",
        "epilogue",
        "bare LF",
        "padding",
        "long epilogue",
        "base64",
        "long",
        "huge",
        "unnamed",
        "one",
        "three",
        "empty",
    ],
)
def test_what_is_not_exactly_such_a_body_is_malformed(body: bytes) -> None:
    assert outcome(lambda: read_all(body)) == outcome(lambda: read_all(body, 1000)) == "malformed"


def test_a_part_over_its_limit_is_refused_before_the_rest_is_read() -> None:
    stream = Dripping(multipart([("request", bytes(10_000_000))]))
    parts = Parts(stream, len(stream.data), BOUNDARY.encode())
    parts.begin()
    with pytest.raises(Refusal) as refused:
        parts.read(1000)
    assert refused.value.code == "too-large"
    assert stream.given <= 2 * PIECE


def test_never_more_is_read_than_the_length_says() -> None:
    stream = Dripping(TWO + b"the next request")
    parts = Parts(stream, len(TWO), BOUNDARY.encode())
    for _ in range(2):
        parts.begin()
        parts.read(1000)
    parts.end()
    assert stream.given == len(TWO)


def test_a_lost_connection_is_a_body_that_breaks_off() -> None:
    class Lost(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            raise ConnectionResetError

    with pytest.raises(Refusal) as refused:
        Parts(Lost(), 100, BOUNDARY.encode()).begin()
    assert refused.value.code == "malformed"


def test_a_short_rest_is_skipped_and_a_long_one_is_not() -> None:
    for most, skipped in ((1_000_000, True), (999_999, False)):
        stream = Dripping(bytes(1_000_000))
        assert Parts(stream, 1_000_000, BOUNDARY.encode()).skip(most) is skipped
        assert stream.given == (1_000_000 if skipped else 0)


@pytest.mark.parametrize(
    ("content_type", "good"),
    [
        ("multipart/form-data; boundary=abc", True),
        ('multipart/form-data; boundary="a b"; charset=x', True),
        ("Multipart/Form-Data; boundary=abc", True),
        ("multipart/form-data", False),
        ("multipart/form-data; boundary=", False),
        (f"multipart/form-data; boundary={'a' * 71}", False),
        ("multipart/form-data; boundary=ä", False),
        ("multipart/form-data; boundary=a; boundary", False),
        ('multipart/form-data; boundary="a\\\r\\\nb"', False),
        ("multipart/mixed; boundary=abc", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_the_media_type_needs_a_boundary(content_type: str, good: bool) -> None:
    if good:
        assert parse_boundary(content_type)
        return
    with pytest.raises(MultipartError):
        parse_boundary(content_type)


@given(st.text(max_size=100))
def test_any_media_type_is_a_boundary_or_an_error(text: str) -> None:
    try:
        assert 1 <= len(parse_boundary("multipart/form-data; boundary=" + text)) <= 70
    except MultipartError:
        return


def test_names_are_found_among_other_parameters() -> None:
    fields = 'form-data; filename="; name=\\"other"; Name="request"'
    body = TWO.replace(b'form-data; name="request"', fields.encode())
    assert read_all(body)[0] == ("request", b"{}")
