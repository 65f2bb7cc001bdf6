"""Names of files from Message-IDs: safe, of bounded length, and never the same for two identifiers."""

import hashlib
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from commands.popcl.names import MAX_HEADER, Header, name_of, variant

DIGEST = hashlib.sha256(b"content").hexdigest()


def message_id(*pieces: bytes) -> bytes | None:
    header = Header()
    for piece in pieces:
        header.feed(piece)
    return header.message_id()


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"Message-ID: <1@x>\r\n\r\n", b"1@x"),
        (b"From: a\r\nmessage-id:<1@x>\r\nTo: b\r\n\r\nbody", b"1@x"),
        (b"MESSAGE-ID : \r\n\t<1@x>\r\n\r\n", b"1@x"),
        (b"Message-ID: (comment) <1@x> trailing\r\n\r\n", b"1@x"),
        (b"Message-ID: <a\r\n b@x>\r\n\r\n", b"a b@x"),
        (b"Message-ID: no brackets \r\n\r\n", b"no brackets"),
        (b"Message-ID: <1@x>\r\nMessage-ID: <2@x>\r\n\r\n", b"1@x"),
        (b"Message-ID: <1@x>", b"1@x"),
        (b"From: a\nMessage-ID: <1@x>\n\nbody", b"1@x"),
        (b"Message-ID: <\xff\0>\r\n\r\n", b"\xff\0"),
        (b"Message-ID: <>\r\n\r\n", None),
        (b"Message-ID:\r\n\r\n", None),
        (b"X-Message-ID: <1@x>\r\n\r\n", None),
        (b"Subject: Message-ID: <1@x>\r\n\r\n", None),
        (b"Subject: x\r\n Message-ID: <1@x>\r\n\r\n", None),
        (b"Subject: x\r\n\r\nMessage-ID: <1@x>\r\n\r\n", None),
        (b"\r\nMessage-ID: <1@x>\r\n", None),
        (b"", None),
    ],
)
def test_the_message_id_of_a_header(header: bytes, found: bytes | None) -> None:
    assert message_id(header) == found
    assert message_id(*(header[at : at + 1] for at in range(len(header)))) == found


def test_a_header_without_an_end_is_read_so_far_and_no_further() -> None:
    assert message_id(b"Message-ID: <1@x>\r\n", *[b"X: y\r\n" * 10_000] * 10) == b"1@x"
    assert message_id(b"X: " + b"y" * MAX_HEADER + b"\r\n", b"Message-ID: <1@x>\r\n\r\n") is None


@given(
    st.lists(st.sampled_from([b"Message-ID:", b"\r\n", b"\n", b"\r", b" ", b"<", b">", b"a"]) | st.binary(max_size=4))
)
def test_any_header_has_a_message_id_or_none_however_it_is_cut(pieces: list[bytes]) -> None:
    assert message_id(*pieces) == message_id(b"".join(pieces))


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        (b"20260101.1@mail.example", "20260101.1@mail.example"),
        (b"a+b$c!d,e_f-g@x", "a+b$c!d,e_f-g@x"),
        (b"../../etc/passwd", "%2E%2E%2F.%2E%2Fetc%2Fpasswd"),
        (b".hidden", "%2Ehidden"),
        (b"-rf", "%2Drf"),
        (b"a\\b c\0d\r\n", "a%5Cb%20c%00d%0D%0A"),
        (b"100%=~", "100%25%3D%7E"),
        ("č@x".encode(), "%C4%8D@x"),
    ],
)
def test_names(identifier: bytes, name: str) -> None:
    assert name_of(identifier, b"uid", DIGEST) == name


hostile = st.lists(
    st.sampled_from([b".", b"/", b"\\", b"~", b"%", b"=", b"\0", b"-", b"a" * 60, b"\n", b"CON", b"%2F"])
)
identifiers = hostile.map(b"".join) | st.binary(min_size=1, max_size=300)


@given(identifiers.filter(bool), identifiers.filter(bool))
@example(b"a/b", b"a%2Fb")
@example(b"a" * 300, b"a" * 301)
@example(b"uidl=x", b"x")
def test_no_two_identifiers_have_the_same_name(one: bytes, other: bytes) -> None:
    assume(one != other)
    names = [name_of(one, None, DIGEST), name_of(None, one, DIGEST), name_of(other, None, DIGEST)]
    names += [variant(name, DIGEST) for name in names]
    assert len(set(names)) == 6


@given(identifiers.filter(bool), st.booleans())
def test_every_name_is_one_of_a_visible_file_in_this_directory(identifier: bytes, unique_id: bool) -> None:
    name = name_of(None, identifier, DIGEST) if unique_id else name_of(identifier, None, DIGEST)
    for each in (name, variant(name, DIGEST)):
        assert re.fullmatch(r"[A-Za-z0-9_%@+$!,][A-Za-z0-9._%@+$!,=~-]*", each)
        assert ".." not in each
        assert len(each) <= 255


def test_a_message_without_identifiers_is_named_after_its_content() -> None:
    assert name_of(None, None, DIGEST) == f"sha256={DIGEST}"
    assert name_of(b"", b"7", DIGEST) == "uidl=7"
