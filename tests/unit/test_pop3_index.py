"""The index beside an mbox, as octets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pop3d.index_cache import IndexCache
from services.pop3d.index_format import Record, RecordError, without
from stubmail.mbox.scan import Index, Scanner


def scan(data: bytes) -> Index:
    scanner = Scanner()
    scanner.feed(data)
    return scanner.finish()


def mbox(*contents: bytes) -> bytes:
    return b"".join(b"From a@b Thu Jan  1 00:00:00 2026\n" + content + b"\n" for content in contents)


FILE = mbox(b"one\n", b"two\r\n>From x\n", b"one\n", b"X-UIDL: x\n\n", b"last\n")
RECORD = Record((7, len(FILE), 123, -5), scan(FILE), {2: 2}, b"memory", settled=True)


def columns(index: Index) -> list[object]:
    return [index.starts, index.bodies, index.ends, index.octets, index.digests, index.size, index.uidls]


def test_a_record_survives_the_file() -> None:
    again = Record.from_wire(RECORD.to_wire())
    assert (again.seen, again.numbers, again.memory) == (RECORD.seen, RECORD.numbers, RECORD.memory)
    assert again.settled
    assert columns(again.index) == columns(RECORD.index)


@given(st.integers(0, len(RECORD.to_wire()) - 1), st.integers(1, 255))
def test_a_single_changed_octet_is_noticed(at: int, by: int) -> None:
    data = bytearray(RECORD.to_wire())
    data[at] ^= by
    with pytest.raises(RecordError):
        Record.from_wire(bytes(data))


@given(st.integers(0, len(RECORD.to_wire()) - 1))
def test_a_cut_file_is_noticed(end: int) -> None:
    with pytest.raises(RecordError):
        Record.from_wire(RECORD.to_wire()[:end])


@given(st.binary(max_size=200), st.booleans())
def test_any_octets_are_a_record_or_an_error(data: bytes, begun: bool) -> None:
    with pytest.raises(RecordError):
        Record.from_wire(RECORD.to_wire()[:16] + data if begun else data)


@given(st.sets(st.integers(0, 4)))
def test_cutting_messages_out_of_the_index_is_like_reading_the_file_without_them(gone: set[int]) -> None:
    index = RECORD.index
    cut = b"".join(FILE[index.starts[at] : index.after(at)] for at in range(5) if at not in gone)
    assert columns(without(index, gone)) == columns(scan(cut))


def test_the_cache_knows_a_record_only_for_the_file_it_came_from() -> None:
    cache = IndexCache()
    cache.put("a", (1, 2, 3, 4), RECORD)
    assert cache.get("a", (1, 2, 3, 4), Record) is RECORD
    assert cache.get("a", (1, 2, 3, 5), Record) is None
    assert cache.get("b", (1, 2, 3, 4), Record) is None


def test_the_cache_forgets_what_was_unused_for_longest() -> None:
    cache = IndexCache(2 * RECORD.size)
    for name in "abb":
        cache.put(name, (1, 2, 3, 4), RECORD)
    assert cache.get("a", (1, 2, 3, 4), Record) is RECORD
    cache.put("c", (1, 2, 3, 4), RECORD)
    assert [cache.get(name, (1, 2, 3, 4), Record) is not None for name in "abc"] == [True, False, True]
