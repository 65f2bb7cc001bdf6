"""The hash of a stored message: which half of it changes with what."""

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stubmail.mbox import content_hash as module
from stubmail.mbox.content_hash import DIGEST_SIZE, STABLE_SIZE, ContentHash, content_hash

LINES = [b"Status: RO\n", b"x-uid:1", b"\n", b"\r\n", b" ", b"a: b\n", b"a\n", b"Lines", b":", b"\r"]
contents = st.lists(st.sampled_from(LINES), max_size=10).map(b"".join)


@pytest.fixture(params=[0, 5, 20, module.HEADER], scope="module")
def length(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of a header so many octets are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HEADER", request.param)
        yield


def in_pieces(*pieces: bytes) -> bytes:
    content = ContentHash()
    for piece in pieces:
        content.feed(piece)
    return content.finish()


@pytest.mark.usefixtures("length")
@given(contents, st.integers(0, 60))
@example(b"Status: RO\n\n\r\nLines: 1\n", 20)  # an LF that two empty lines share
def test_pieces_give_what_the_whole_gives(content: bytes, cut: int) -> None:
    whole = content_hash(content)
    assert len(whole) == DIGEST_SIZE
    assert in_pieces(content[:cut], content[cut:]) == whole
    assert in_pieces(*(content[at : at + 1] for at in range(len(content)))) == whole


@pytest.mark.usefixtures("length")
@given(contents, contents)
def test_different_contents_have_different_hashes(one: bytes, other: bytes) -> None:
    def stored(content: bytes) -> bytes:
        return content + b"\n" if content and not content.endswith(b"\n") else content

    assert (content_hash(one) == content_hash(other)) == (stored(one) == stored(other))


def test_a_note_changes_the_second_half_alone() -> None:
    plain, noted = content_hash(b"a: b\n\ntext\n"), content_hash(b"a: b\nStatus: R\n\ntext\n")
    assert plain[:STABLE_SIZE] == noted[:STABLE_SIZE]
    assert plain[STABLE_SIZE:] != noted[STABLE_SIZE:]


def test_memory_is_that_of_a_header() -> None:
    content = ContentHash()
    for _ in range(1000):
        content.feed(b"x" * 1000)
    assert content._head is None
