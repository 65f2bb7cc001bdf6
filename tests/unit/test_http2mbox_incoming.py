"""A batch on its way in: whatever the store answers, only what is whole and was asked for counts."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from services.http2mbox import incoming
from services.http2mbox.incoming import Incoming, Stopped
from stubmail.errors import TemporaryError
from stubmail.frames import ABSENT, CONTENT, END, WITHDRAWN, Frame
from stubmail.store_answers import Listed
from tests.support.fake_store import ALICE, ALICE_KEY

ONE, TWO, THREE = (bytes([number] * 16) for number in (1, 2, 3))


def listed(post_id: bytes, size: int) -> Listed:
    return Listed(post_id, post_id[0], ALICE_KEY, ALICE, size, 0)


Event = Frame | bytes | Exception


class Scripted:
    """Answers with the events that a test wrote, one list for each request; an exception in it is raised."""

    def __init__(self, *answers: list[Event]) -> None:
        self.answers = list(answers)
        self.asked = []
        self.closed = 0

    def fetch(self, posts: Sequence[tuple[bytes, int]]) -> Iterator[Frame | bytes]:
        self.asked.append(list(posts))
        try:
            for event in self.answers.pop(0):
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed += 1


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Incoming]:
    with Incoming(tmp_path, lambda: False) as box:
        yield box


BROKEN = TemporaryError("4.4.2", "the store's answer broke off")


def test_whole_posts_come_in(box: Incoming) -> None:
    client = Scripted([Frame(ONE, CONTENT, 0, 5), b"he", b"llo", Frame(TWO, CONTENT, 0, 0), END])
    box.fetch(client, [listed(ONE, 5), listed(TWO, 0)])
    assert [box.content(post) for post in box.complete] == [b"hello", b""]
    assert box.gone == []


def test_withdrawn_and_absent_posts_are_gone_and_the_others_come(box: Incoming) -> None:
    client = Scripted([Frame(ONE, ABSENT), Frame(TWO, CONTENT, 0, 2), b"ok", Frame(THREE, WITHDRAWN), END])
    box.fetch(client, [listed(ONE, 5), listed(TWO, 2), listed(THREE, 2)])
    assert [post.id for post in box.gone] == [ONE, THREE]
    assert [post.id for post in box.complete] == [TWO]


def test_an_answer_that_breaks_off_is_resumed_where_it_did(box: Incoming) -> None:
    client = Scripted(
        [Frame(ONE, CONTENT, 0, 3), b"one", Frame(TWO, CONTENT, 0, 6), b"fir", BROKEN],
        [Frame(TWO, CONTENT, 3, 3), b"s", BROKEN],
        [Frame(TWO, CONTENT, 4, 2), b"t!", Frame(THREE, CONTENT, 0, 1), b"3", END],
    )
    box.fetch(client, [listed(ONE, 3), listed(TWO, 6), listed(THREE, 1)])
    assert client.asked == [[(ONE, 0), (TWO, 0), (THREE, 0)], [(TWO, 3), (THREE, 0)], [(TWO, 4), (THREE, 0)]]
    assert [box.content(post) for post in box.complete] == [b"one", b"first!", b"3"]


def test_what_came_whole_counts_when_the_rest_does_not_come(box: Incoming) -> None:
    client = Scripted([Frame(ONE, CONTENT, 0, 3), b"one", BROKEN], [BROKEN])
    with pytest.raises(TemporaryError):
        box.fetch(client, [listed(ONE, 3), listed(TWO, 6)])
    assert [box.content(post) for post in box.complete] == [b"one"]


def test_a_store_that_gives_a_single_octet_each_time_is_given_up(box: Incoming) -> None:
    size = incoming.MAX_TRIES * 2
    answers = [[Frame(ONE, CONTENT, at, size - at), b"x", BROKEN] for at in range(size)]
    client = Scripted(*answers)
    with pytest.raises(TemporaryError):
        box.fetch(client, [listed(ONE, size)])
    assert len(client.asked) == incoming.MAX_TRIES
    assert box.complete == []


@pytest.mark.parametrize(
    "answer",
    [
        [END],
        [],
        [Frame(TWO, CONTENT, 0, 3), b"two", END],  # another post
        [Frame(ONE, CONTENT, 0, 4), b"four", END],  # longer than listed
        [Frame(ONE, CONTENT, 0, 2), b"to", END],  # shorter than listed
        [Frame(ONE, CONTENT, 0, 2**60)],  # endless
        [Frame(ONE, CONTENT, 1, 2), b"ne", END],  # not from where it was asked
        [Frame(ONE, CONTENT, 0, 3), b"on", END],
        [Frame(ONE, CONTENT, 0, 3), b"on", Frame(TWO, CONTENT, 0, 3)],
        [b"one"],
    ],
)
def test_an_answer_about_something_else_is_refused_and_not_asked_for_again(box: Incoming, answer: list[Event]) -> None:
    client = Scripted(answer)
    with pytest.raises(TemporaryError):
        box.fetch(client, [listed(ONE, 3)])
    assert box.complete == []
    assert client.closed == len(client.asked) == 1


@pytest.mark.parametrize("extra", [[Frame(TWO, CONTENT, 0, 1), b"x", END], [END, END]])
def test_more_than_was_asked_for_is_refused_but_what_was_asked_for_counts(box: Incoming, extra: list[Frame]) -> None:
    client = Scripted([Frame(ONE, CONTENT, 0, 3), b"one", *extra])
    with pytest.raises(TemporaryError):
        box.fetch(client, [listed(ONE, 3)])
    assert [box.content(post) for post in box.complete] == [b"one"]


def test_it_stops_between_two_pieces(tmp_path: Path) -> None:
    client = Scripted([Frame(ONE, CONTENT, 0, 3), b"one", END])
    with Incoming(tmp_path, lambda: True) as box, pytest.raises(Stopped):
        box.fetch(client, [listed(ONE, 3)])
    assert client.closed == 1


PIECE = b"x" * 65_536


def large(size: int) -> tuple[Scripted, Listed]:
    pieces = [PIECE] * (size // len(PIECE))
    return Scripted([Frame(ONE, CONTENT, 0, size), *pieces, END]), listed(ONE, size)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories of the files that were made."""
    made: list[Path] = []
    create = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: made.append(how["dir"]) or create(**how))
    return made


def test_a_large_batch_is_on_disk_without_a_name(tmp_path: Path, files: list[Path]) -> None:
    client, post = large(incoming.MEMORY_SIZE + incoming.SHARED_SIZE + len(PIECE))
    with Incoming(tmp_path, lambda: False) as box:
        box.fetch(client, [post])
        assert box.content(post) == b"x" * post.size
        assert list(tmp_path.iterdir()) == []
    assert files == [tmp_path]


def test_batches_share_memory_and_give_it_back(tmp_path: Path, files: list[Path]) -> None:
    for rounds in (1, 2):
        with Incoming(tmp_path, lambda: False) as first, Incoming(tmp_path, lambda: False) as second:
            for box in (first, second):
                client, post = large(incoming.SHARED_SIZE)
                box.fetch(client, [post])
                assert box.content(post) == b"x" * post.size
                assert len(files) == rounds - (box is first)
