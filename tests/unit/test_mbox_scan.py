"""Where messages begin and end, against a slow reading of the same rules line by line."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stubmail.mbox import scan as scan_module
from stubmail.mbox.content_hash import content_hash
from stubmail.mbox.errors import NotMbox
from stubmail.mbox.format import ToStored, ToWire
from stubmail.mbox.scan import Index, Scanner, begins_like_mbox, separator

WORDS = [
    b"X-UIDL: x\n",
    b"Status: RO\n",
    b"x-uid:",
    b"From ",
    b"From a\n",
    b"\n\nFrom ",
    b"\r\nFrom ",
    b"Fro",
    b">",
    b"\n",
    b"\r\n",
    b"\r",
    b"x",
    b"\0",
]
files = st.lists(st.sampled_from(WORDS), max_size=24).map(b"".join)


@pytest.fixture(params=[0, 9, scan_module.LONG], ids=lambda octets: f"long-{octets}", autouse=True, scope="module")
def long(request: pytest.FixtureRequest) -> Iterator[None]:
    """Messages of more than so many octets are not held in memory whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_module, "LONG", request.param)
        yield


def scan(*pieces: bytes) -> Index:
    scanner = Scanner()
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


def table(index: Index) -> list[tuple[int, int, int, int, bytes]]:
    return [
        (index.starts[i], index.bodies[i], index.ends[i], index.octets[i], index.digest(i)) for i in range(len(index))
    ]


def outcome(*pieces: bytes) -> object:
    try:
        index = scan(*pieces)
        return index.size, table(index), index.uidls
    except NotMbox:
        return None


def read_slowly(data: bytes) -> list[tuple[int, int, int]]:
    """The extents of an mbox, found line by line."""
    extents: list[list[int]] = []
    offset = 0
    empty = 1  # octets of the empty line before this line
    leading = True
    for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
        if line.startswith(b"From ") and (empty or leading):
            if extents:
                extents[-1][2] = offset - empty
            extents.append([offset, offset + len(line), 0])
        leading = leading and line in (b"\n", b"\r\n")
        offset += len(line)
        empty = len(line) if line in (b"\n", b"\r\n") else 0
    if extents:
        extents[-1][2] = len(data) - empty
    return [(start, body, end) for start, body, end in extents]


@given(files)
@example(b"From a\n\nFrom b")
@example(b"From a\n\r\nFrom b\n")
@example(b"\r\n\nFrom a\nFrom b\n\nFrom c\n\n")
def test_scanner_agrees_with_the_slow_reading(data: bytes) -> None:
    if not begins_like_mbox(data):
        with pytest.raises(NotMbox):
            scan(data)
        return
    index = scan(data)
    assert index.size == len(data)
    assert [(start, body, end) for start, body, end, _, _ in table(index)] == read_slowly(data)
    for _start, body, end, octets, digest in table(index):
        wire = ToWire()
        assert octets == len(wire.feed(data[body:end]) + wire.finish())
        assert digest == content_hash(data[body:end])


@given(files, st.data())
def test_pieces_give_what_the_whole_gives(data: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data)))
    whole = outcome(data)
    assert outcome(data[:cut], data[cut:]) == whole
    assert outcome(*(data[i : i + 1] for i in range(len(data)))) == whole


@given(st.lists(files, max_size=4))
def test_every_stored_message_is_found_whole(contents: list[bytes]) -> None:
    stored = []
    for content in contents:
        machine = ToStored()
        stored.append(machine.feed(content) + machine.finish())
    data = b"".join(b"From a\n" + content + b"\n" for content in stored)
    assert [data[body:end] for _, body, end, _, _ in table(scan(data))] == stored


@given(files)
@example(b"\r")
def test_a_message_appended_changes_no_message_before(data: bytes) -> None:
    data = b"From a\n" + data
    complete = data + separator(data[-3:])
    before, after = table(scan(data)), table(scan(complete + b"From b\n\n"))
    assert [row[3:] for row in after[:-1]] == [row[3:] for row in before]
    assert after[-1][0] == len(complete)


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n\n"])
def test_empty_mailboxes(data: bytes) -> None:
    assert len(scan(data)) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"From: a\n",
        b"Subject: x\n\nFrom a\n",
        b"Fro",
        b"\r",
        b"\rFrom a\n",
        b"\0From a\n",
        b" From a\n",
        b">From ",
        b"\r",
        b"\rFrom a\n",
    ],
)
def test_a_file_that_does_not_begin_with_a_from_line_is_refused(data: bytes) -> None:
    assert outcome(data) is None
    assert not begins_like_mbox(data)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"From a\ntext\nFrom b\n", 1),  # no empty line before it: text
        (b"From a\ntext\n\nFrom b\n", 2),
        (b"From a\r\ntext\r\n\r\nFrom b\r\n", 2),
        (b"From a\ntext\n\n From b\n", 1),
        (b"From a\ntext\n \nFrom b\n", 1),
        (b"From a\ntext\n\n>From b\n", 1),
        (b"From a\rtext\r\rFrom b\r", 1),  # bare CRs are no lines to the programs that write mboxes
        (b"From ", 1),
    ],
)
def test_what_counts_as_a_from_line(data: bytes, count: int) -> None:
    assert len(scan(data)) == count
