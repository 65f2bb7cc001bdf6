"""popcl's reading of a server: replies whole and octet by octet, byte-stuffing, and any octets at all."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.popcl.protocol import (
    MAX_CHALLENGE,
    MAX_STATUS,
    Challenge,
    Client,
    Data,
    End,
    Event,
    Expect,
    ProtocolError,
    Status,
)
from services.pop3d.stuffing import END, stuff

LINE, LINES, AUTH = Expect.LINE, Expect.LINES, Expect.AUTH


def read(pieces: list[bytes], *expected: Expect) -> list[Event | str]:
    """All events that the pieces give, contents joined; the text of the error at the end when there was one."""
    client = Client()
    for reply in expected:
        client.expect(reply)
    events: list[Event | str] = []
    for piece in pieces:
        client.receive(piece)
        try:
            while (event := client.next()) is not None:
                if isinstance(event, Data) and events and isinstance(events[-1], Data):
                    events[-1] = Data(events[-1].octets + event.octets)
                else:
                    events.append(event)
        except ProtocolError as error:
            return [*events, str(error)]
    return events


def singly(octets: bytes) -> list[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


fragments = st.sampled_from(
    [b"+OK", b"-ERR", b" ", b"\r\n", b"\n", b"\r", b".", b"..", b"\r\n.\r\n", b"+", b"+ AA==", b"x", b"\0", b"\xff"]
)


@given(st.lists(fragments | st.binary(max_size=5), max_size=30), st.lists(st.sampled_from(Expect), max_size=5))
def test_any_octets_are_events_or_an_error_however_they_arrive(pieces: list[bytes], expected: list[Expect]) -> None:
    whole = b"".join(pieces)
    assert read([whole], *expected) == read(pieces, *expected) == read(singly(whole), *expected)


@given(st.lists(st.sampled_from([b"", b".", b"..", b".x", b"x\n.", b"\r.", b"a"]) | st.binary(max_size=6)), st.data())
def test_a_message_comes_back_as_the_server_has_it(lines: list[bytes], data: st.DataObject) -> None:
    message = b"".join(re.sub(rb"\r\n", b"", line) + b"\r\n" for line in lines).replace(b"\r\r\n", b"\r\n")
    wire = b"+OK\r\n+OK here\r\n" + re.sub(rb"(?m)\A\.|(?<=\r\n)\.", b"..", message) + END
    cut = data.draw(st.integers(0, len(wire)))
    expected = [Status(True, b""), Status(True, b"here"), *([Data(message)] if message else []), End()]
    assert read([wire[:cut], wire[cut:]], LINES) == expected


@given(st.binary(max_size=60))
def test_what_our_own_server_sends_is_understood(content: bytes) -> None:
    message = re.sub(rb"\r\n|\r|\n", b"\r\n", content + b"\n")
    wire = b"+OK\r\n+OK\r\n" + b"".join(stuff([message])) + END
    [_, _, data, end] = read([wire], LINES)
    assert (data, end) == (Data(message), End())


def test_a_bare_line_feed_neither_ends_a_message_nor_loses_its_full_stop() -> None:
    wire = b"+OK\r\n+OK\r\na\n.\nb\n..c\r\n.\n\r\n.\r\n"
    assert read([wire], LINES)[2:] == [Data(b"a\n.\nb\n..c\r\n\n\r\n"), End()]


def test_replies_come_in_the_order_of_the_commands() -> None:
    wire = b"+OK hello\r\n+OK\r\nTOP\r\n.\r\n-ERR no\r\n+OK bye\n"
    expected = [Status(True, b"hello"), Status(True, b""), Data(b"TOP\r\n"), End(), Status(False, b"no")]
    assert read([wire], LINES, LINES, LINE) == [*expected, Status(True, b"bye")]


def test_challenges_come_until_a_status_line() -> None:
    assert read([b"+OK\r\n+ AA==\r\n+\r\n+OK in\r\n"], AUTH) == [
        Status(True, b""),
        Challenge(b"AA=="),
        Challenge(b""),
        Status(True, b"in"),
    ]


@pytest.mark.parametrize(
    "line", [b"", b" +OK", b"OK", b"+ok", b"+OKAY", b"+", b"-ER", b"* OK", b"220 smtp", b"<html>", b"\x16\x03\x01"]
)
def test_what_is_no_status_line_is_refused(line: bytes) -> None:
    assert "no status line" in str(read([line + b"\r\n"])[-1])


def test_a_line_of_the_greatest_length_passes_and_a_longer_one_is_refused_before_its_end() -> None:
    assert read([b"+OK " + b"x" * (MAX_STATUS - 6) + b"\r\n"]) == [Status(True, b"x" * (MAX_STATUS - 6))]
    assert read([b"+OK " + b"x" * (MAX_STATUS - 4)]) == [f"the server sent a line of more than {MAX_STATUS} octets"]
    assert read([b"+OK\r\n+ " + b"x" * MAX_CHALLENGE], AUTH)[1:] == [
        f"the server sent a line of more than {MAX_CHALLENGE} octets"
    ]


def test_a_message_line_may_be_as_long_as_it_likes() -> None:
    client = Client()
    client.expect(LINES)
    client.receive(b"+OK\r\n+OK\r\n")
    assert [client.next(), client.next()] == [Status(True, b"")] * 2
    for _ in range(100):
        client.receive(b"x" * 65_536)
        assert client.next() == Data(b"x" * 65_536)
        assert client.next() is None
        assert client.quiet is False


def test_a_server_that_speaks_unasked_is_refused() -> None:
    assert read([b"+OK\r\n+OK\r\n"])[1:] == ["the server sent what nobody has asked for"]
    client = Client()
    client.receive(b"+OK\r\n+OK injected\r\n")
    assert client.next() == Status(True, b"")
    with pytest.raises(ProtocolError, match="nobody has asked"):
        client.expect(LINE)
