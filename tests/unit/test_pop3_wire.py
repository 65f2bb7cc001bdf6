"""POP3 lines, commands and numbers: the grammar, its limits, and any octets at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pop3d.actions import Login
from services.pop3d.sasl import Plain, SaslError, parse_response
from services.pop3d.wire import (
    MAX_LINE,
    LineBuffer,
    LineTooLong,
    WireError,
    err,
    ok,
    parse_command,
    parse_numbers,
)


def lines_of(pieces: list[bytes], limit: int = MAX_LINE) -> list[bytes | None]:
    """Everything that a buffer gives for these pieces; None at the end when a line was too long."""
    buffer, lines = LineBuffer(), []
    for piece in pieces:
        buffer.feed(piece)
        try:
            while (line := buffer.take(limit)) is not None:
                lines.append(line)
        except LineTooLong:
            return [*lines, None]
    return lines


@given(
    st.lists(st.binary(max_size=12) | st.sampled_from([b"\r\n", b"\n", b"\r", b"STAT\r\n", b"\0"])), st.integers(3, 20)
)
def test_lines_do_not_depend_on_how_the_octets_arrive(pieces: list[bytes], limit: int) -> None:
    whole = b"".join(pieces)
    singly = [whole[at : at + 1] for at in range(len(whole))]
    assert lines_of([whole], limit) == lines_of(pieces, limit) == lines_of(singly, limit)


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))))
def test_what_is_sent_as_lines_arrives_as_lines(lines: list[bytes]) -> None:
    assert lines_of([b"".join(line + b"\r\n" for line in lines)]) == lines


def test_a_line_of_255_octets_passes_and_one_of_256_does_not() -> None:
    assert lines_of([b"a" * 253 + b"\r\n"]) == [b"a" * 253]
    assert lines_of([b"a" * 254 + b"\r\n"]) == [None]
    assert lines_of([b"a" * 255]) == [None]


def test_many_lines_are_taken_without_moving_what_waits_each_time() -> None:
    buffer = LineBuffer()
    buffer.feed(b"NOOP\r\n" * 50_000)
    for left in range(50_000, 0, -1):
        assert len(buffer) == 6 * left
        assert buffer.take(MAX_LINE) == b"NOOP"
    assert len(buffer) == 0


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"stat", (b"STAT", b"")),
        (b"Pass  a b ", (b"PASS", b" a b ")),
        (b"RETR\t1", (b"RETR\t1", b"")),
        (b"USER a\0b", (b"USER", b"a\0b")),
        (b"", (b"", b"")),
    ],
)
def test_a_command_ends_at_its_first_space(line: bytes, command: tuple[bytes, bytes]) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("argument", "numbers"), [(b"", []), (b"  ", []), (b"1", [1]), (b"1 0 ", [1, 0]), (b"007", [7])]
)
def test_numbers(argument: bytes, numbers: list[int]) -> None:
    assert parse_numbers(argument, 0, 2) == numbers


@pytest.mark.parametrize(
    "argument",
    [
        b"+1",
        b"-1",
        b"1_0",
        b"0x1",
        b"1.0",
        b"\xd9\xa1",
        b"\xb2",
        b" 1",
        b"1  2",
        b"1\t2",
        b"1\x0b2",
        b"1\x00",
        b"1" * 11,
        b"1 2 3",
    ],
)
def test_what_is_no_number_is_refused(argument: bytes) -> None:
    with pytest.raises(WireError):
        parse_numbers(argument, 1, 2)


@given(st.binary(), st.integers(0, 2), st.integers(0, 2))
def test_any_argument_is_numbers_or_an_error(argument: bytes, least: int, more: int) -> None:
    try:
        numbers = parse_numbers(argument, least, least + more)
    except WireError:
        return
    assert least <= len(numbers) <= least + more
    assert [str(number) for number in numbers] == [str(int(word)) for word in argument.split()]


def test_status_lines() -> None:
    assert ok() == b"+OK\r\n"
    assert ok("2 320") == b"+OK 2 320\r\n"
    assert err("No") == b"-ERR No\r\n"
    assert err("No", "IN-USE") == b"-ERR [IN-USE] No\r\n"


def parse_plain(line: bytes) -> tuple[bytes, bytes, bytes]:
    login = Plain().respond(parse_response(line))
    assert isinstance(login, Login)
    return login.identity, login.name, login.password


def test_plain_credentials() -> None:
    assert parse_plain(b"AGJvYgBvcGVuIHNlc2FtZQ==") == (b"", b"bob", b"open sesame")
    assert parse_plain(b"YWxpY2UAYm9iAHA=") == (b"alice", b"bob", b"p")


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (b"*", "cancelled"),
        (b"", "form of PLAIN"),
        (b"not base64!", "base64"),
        (b"AGJvYg", "base64"),
        (b"AGJvYg==", "form of PLAIN"),
        (b"AGIAYwBk", "form of PLAIN"),
        (b"AABw", "form of PLAIN"),
    ],
)
def test_responses_that_are_no_credentials(response: bytes, text: str) -> None:
    with pytest.raises(SaslError, match=text):
        parse_plain(response)


@given(st.binary())
def test_any_response_is_credentials_or_an_error(response: bytes) -> None:
    try:
        identity, name, password = parse_plain(response)
    except SaslError:
        return
    assert name
    assert b"\0" not in identity + name + password
