"""Messages as blocks for the wire: order, size of blocks, reading ahead, and messages that break off."""

import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pop3d import reader as reader_module
from services.pop3d.actions import Retrieve
from services.pop3d.reader import AHEAD, BLOCK, FIRST, LAST, NEIGHBOURS, TOGETHER, Item, Reader, in_turn
from services.pop3d.wire import retrieved
from stubmail.errors import TemporaryError
from tests.support.pop3 import FakeMaildrop


class Counting(FakeMaildrop):
    """Notes which messages are read; ``broken`` ones raise when so many of their pieces are out."""

    def __init__(self, messages: list[bytes], piece: int = 1 << 16, broken: dict[int, int] | None = None) -> None:
        super().__init__(messages, piece)
        self.read: list[int] = []
        self.several_calls: list[tuple[int, int]] = []
        self.broken = broken or {}

    def content(self, number: int) -> Iterator[bytes]:
        self.read.append(number)
        for count, piece in enumerate(super().content(number)):
            if self.broken.get(number) == count:
                raise TemporaryError("4.3.0", "changed")
            yield piece

    def several(self, first: int, count: int) -> list[bytes]:
        self.several_calls.append((first, count))
        return super().several(first, count)


class Lying(FakeMaildrop):
    """Announces more than there is."""

    @property
    def octets(self) -> list[int]:
        return [len(message) + 1 for message in self.messages]


def retr(maildrop: FakeMaildrop, number: int) -> Retrieve:
    return Retrieve(number, None, retrieved(maildrop.octets[number - 1]))


def whole(message: bytes) -> bytes:
    return retrieved(len(message)) + message + b".\r\n"


def run(reader: Reader, *items: Item) -> list[bytes]:
    reader.start(items)
    blocks = []
    while not reader.done:
        blocks.append(reader.read())
    return blocks


def test_replies_and_messages_leave_in_order_and_small_ones_together() -> None:
    maildrop = Counting([b"one\r\n", b"two\r\n"])
    blocks = run(Reader(maildrop, "s"), retr(maildrop, 2), b"+OK\r\n", retr(maildrop, 1), b"-ERR no\r\n")
    assert blocks == [whole(b"two\r\n") + b"+OK\r\n" + whole(b"one\r\n") + b"-ERR no\r\n"]


def test_a_large_message_leaves_in_blocks() -> None:
    maildrop = Counting([b"x\r\n", (b"y" * 998 + b"\r\n") * 2000])
    blocks = run(Reader(maildrop, "s"), retr(maildrop, 2))
    assert b"".join(blocks) == whole(maildrop.messages[1])
    assert max(map(len, blocks)) <= BLOCK + 2 * (1 << 16)
    assert len(blocks) > 2_000_000 // (2 * BLOCK)


@pytest.mark.parametrize("size", [0, 100, 4000, 30_000])
def test_messages_taken_in_order_are_read_ahead_more_and_more_within_bounds(size: int) -> None:
    maildrop = Counting([b"x" * size + b"\r\n"] * 1000)
    reader = Reader(maildrop, "s")
    for number in range(1, 1001):
        item = retr(maildrop, number)
        assert (reader.cached(item) or run(reader, item)[0]) == whole(maildrop.messages[0])
    assert sorted(maildrop.read) == list(range(1, 1001)), "each once"
    counts = [count for _, count in maildrop.several_calls]
    assert counts[:3] == [FIRST, 2 * FIRST, min(4 * FIRST, AHEAD // (size + 2))]
    assert max(counts) == min(NEIGHBOURS, AHEAD // (size + 2))


def test_nothing_is_read_ahead_without_leave() -> None:
    maildrop = Counting([b"x\r\n"] * 10)
    reader = Reader(maildrop, "s")
    for number in (1, 2):
        reader.start([retr(maildrop, number)], ahead=False)
        assert reader.read() == whole(b"x\r\n")
        assert not reader.holding
    assert maildrop.read == [1, 2]


@pytest.mark.parametrize("size", [0, 100, 4000, 30_000])
def test_what_is_read_meanwhile_keeps_the_bounds(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "QUICK", 0.0)  # as from a slow disk
    maildrop = Counting([b"x" * size + b"\r\n"] * 1000)
    reader = Reader(maildrop, "s")
    run(reader, retr(maildrop, 1))
    for number in range(2, 1001):
        while reader.low and (messages := reader.following()):
            reader.keep(messages, reader.fetch(messages))
        held = [reader.cached(retr(maildrop, number))]
        assert held == [whole(maildrop.messages[0])], "the client never waits"
    assert sorted(maildrop.read) == list(range(1, 1001)), "each once"
    counts = [count for _, count in maildrop.several_calls]
    assert max(counts) == min(NEIGHBOURS // 2, AHEAD // 2 // (size + 2))


def test_from_memory_nothing_is_read_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "QUICK", 10.0)
    maildrop = Counting([b"x\r\n"] * 100)
    reader = Reader(maildrop, "s")
    run(reader, retr(maildrop, 1))
    for number in range(2, FIRST + 1):
        assert not reader.low
        assert reader.cached(retr(maildrop, number))
    assert reader.cached(retr(maildrop, FIRST + 1)) is None


def test_what_the_client_has_passed_over_is_forgotten_when_more_comes() -> None:
    maildrop = Counting([b"x\r\n"] * 100)
    reader = Reader(maildrop, "s")
    run(reader, retr(maildrop, 1))
    assert reader.cached(retr(maildrop, FIRST)) == whole(b"x\r\n")
    messages = reader.following()
    reader.keep(messages, reader.fetch(messages))
    assert reader.cached(retr(maildrop, 2)) is None
    assert reader.cached(retr(maildrop, FIRST + 1)) == whole(b"x\r\n")


def test_neighbours_that_are_asked_for_in_one_run_are_read_together() -> None:
    maildrop = Counting([b"%d\r\n" % number for number in range(1, 10)])
    reader = Reader(maildrop, "s")
    numbers = (2, 3, 4, 8, 7, 3)
    items = [item for number in numbers for item in (retr(maildrop, number), b"+OK\r\n")]
    top = Retrieve(5, 0, b"+OK\r\n")
    expected = b"".join(whole(b"%d\r\n" % number) + b"+OK\r\n" for number in numbers)
    assert run(reader, *items, top) == [expected + b"+OK\r\n5\r\n.\r\n"]
    assert maildrop.several_calls == [(2, 3), (8, 1), (7, 1), (3, 1)]


@pytest.mark.parametrize("size", [0, 100, 4_000, 30_000, 300_000])
def test_a_range_of_messages_leaves_in_order_in_blocks_and_within_bounds(size: int) -> None:
    maildrop = Counting([b"%07d\r\n" % number + b"x" * size for number in range(1, 301)])
    octets = maildrop.octets[0]
    blocks = run(Reader(maildrop, "s"), range(2, 200), b"+OK\r\n", range(250, 251))
    expected = b"".join(whole(maildrop.messages[number - 1]) for number in range(2, 200))
    assert b"".join(blocks) == expected + b"+OK\r\n" + whole(maildrop.messages[249])
    assert sorted(maildrop.read) == [*range(2, 200), 250], "each once"
    most = max((count for _, count in maildrop.several_calls), default=0)
    assert most <= min(NEIGHBOURS, (TOGETHER + LAST) // octets)
    assert max(map(len, blocks)) <= BLOCK + max(TOGETHER + LAST, 1 << 17) + 128 * 32


def test_with_the_last_block_of_a_range_all_is_done_and_nothing_is_held() -> None:
    message = b"x\r\n" * 100
    maildrop = Counting([message] * 100)
    reader = Reader(maildrop, "s")
    before = sys.getrefcount(message)
    reader.start([range(1, 10)])
    block = reader.read()
    assert (block, reader.done) == (whole(message) * 9, True)
    assert sys.getrefcount(message) == before


def test_what_is_left_of_a_range_is_read_with_the_last_ones_when_it_is_little() -> None:
    maildrop = Counting([b"x" * (TOGETHER // 10)] * 24)
    run(Reader(maildrop, "s"), range(1, 13))
    assert maildrop.several_calls == [(1, 12)]
    maildrop.several_calls.clear()
    run(Reader(maildrop, "s"), range(1, 14))
    assert maildrop.several_calls == [(1, 10), (11, 3)]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_message_of_a_range_that_has_gone_is_an_error_and_the_others_are_sent(number: int) -> None:
    maildrop = Counting([b"1\r\n", b"2\r\n", b"3\r\n"], broken={number: 0})
    reader = Reader(maildrop, "s")
    replies = [whole(b"1\r\n"), whole(b"2\r\n"), whole(b"3\r\n")]
    replies[number - 1] = b"-ERR [SYS/TEMP] The message is not there any more, or not as it was\r\n"
    assert b"".join(run(reader, range(1, 4))) == b"".join(replies)
    assert reader.failed == {number}


def test_who_has_asked_for_a_range_has_what_follows_read_ahead_then() -> None:
    maildrop = Counting([b"x\r\n"] * 100)
    reader = Reader(maildrop, "s")
    run(reader, range(1, 5))
    assert maildrop.read == [1, 2, 3, 4]
    run(reader, retr(maildrop, 5))
    assert reader.cached(retr(maildrop, 6)) == whole(b"x\r\n")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_ranges_have_the_same_numbers_in_the_same_order(numbers: list[int]) -> None:
    ranges = in_turn(numbers)
    assert [number for one in ranges for number in one] == numbers
    assert all(first.stop != second.start for first, second in pairwise(ranges)), "no two that could be one"


@pytest.mark.parametrize("size", [0, 100, 30_000])
def test_how_much_is_read_together_is_bounded(size: int) -> None:
    maildrop = Counting([b"x" * size] * 1000)
    blocks = run(Reader(maildrop, "s"), *(retr(maildrop, number) for number in range(1, 1001)))
    assert b"".join(blocks) == whole(b"x" * size) * 1000
    assert max(count for _, count in maildrop.several_calls) == min(NEIGHBOURS, TOGETHER // max(size, 1))


def test_what_was_read_ahead_can_be_let_go() -> None:
    maildrop = Counting([b"x\r\n"] * 3)
    reader = Reader(maildrop, "s")
    run(reader, retr(maildrop, 1))
    assert maildrop.read == [1, 2, 3]
    reader.forget()
    assert reader.cached(retr(maildrop, 2)) is None
    assert run(reader, retr(maildrop, 2)) == [whole(b"x\r\n")]


def test_nothing_is_read_ahead_for_a_client_that_jumps_about_or_looks_at_tops() -> None:
    maildrop = Counting([b"x\r\n"] * 10)
    reader = Reader(maildrop, "s")
    run(reader, retr(maildrop, 5))
    run(reader, Retrieve(6, 0, b"+OK\r\n"))
    assert maildrop.read == [5, 6]
    assert reader.cached(retr(maildrop, 7)) is None


def test_a_message_that_has_gone_is_an_error_and_the_next_ones_follow() -> None:
    maildrop = Counting([b"one\r\n", b"two\r\n"], broken={1: 0})
    blocks = run(Reader(maildrop, "s"), retr(maildrop, 1), retr(maildrop, 2))
    assert blocks == [b"-ERR [SYS/TEMP] The message is not there any more, or not as it was\r\n" + whole(b"two\r\n")]


def test_a_message_that_breaks_off_is_not_ended() -> None:
    maildrop = Counting([b"0123456789\r\n"], piece=4, broken={1: 2})
    reader = Reader(maildrop, "s")
    reader.start([retr(maildrop, 1)])
    with pytest.raises(TemporaryError):
        reader.read()


def test_a_message_of_another_size_than_announced_is_not_ended() -> None:
    maildrop = Lying([b"short\r\n"])
    reader = Reader(maildrop, "s")
    reader.start([retr(maildrop, 1)])
    with pytest.raises(TemporaryError, match="announced"):
        reader.read()


def test_a_message_that_cannot_be_read_ahead_is_left_until_it_is_asked_for() -> None:
    maildrop = Counting([b"one\r\n", b"two\r\n", b"three\r\n"], broken={2: 0})
    reader = Reader(maildrop, "s")
    assert run(reader, retr(maildrop, 1)) == [whole(b"one\r\n")]
    assert reader.cached(retr(maildrop, 2)) is None
    assert not reader.following(), "nor is it tried again and again"
    assert run(reader, retr(maildrop, 2))[0].startswith(b"-ERR ")
    assert run(reader, retr(maildrop, 3)) == [whole(b"three\r\n")]
