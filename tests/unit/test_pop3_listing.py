"""What is known of a Maildir, as octets."""

import dataclasses
from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.pop3d.maildir_listing import Listing, ListingError

NAMES = ["1.a:2,S", "2 \n\udcff\u00fc", "3"]
LISTING = Listing(
    (7, 4096, 123, -5),
    True,
    NAMES,
    array("Q", [1, 2, 2**40]),
    array("q", [-1, 0, 2**62]),
    array("Q", [3, 0, 5]),
    {1: "an-id", 2: '~a"b'},
    ["gone", "1 2"],
)
names = st.lists(st.text(st.characters(blacklist_characters="\0/", max_codepoint=0xDCFF), min_size=1), unique=True)


def surrogates_escape(name: str) -> bool:
    """Whether a file can have that name."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == name
    except UnicodeEncodeError:
        return False


def test_a_listing_survives_the_file() -> None:
    again = Listing.from_wire(LISTING.to_wire())
    assert again == LISTING
    assert again.total == 8


@given(names.map(lambda some: [name for name in some if surrogates_escape(name)]))
@example([":", ":0"])  # the same name but for flags, and no id
def test_any_names_survive(some: list[str]) -> None:
    numbers = array("Q", range(len(some)))
    listing = dataclasses.replace(
        LISTING, names=some, sizes=numbers, times=array("q", numbers), octets=numbers, imported={}, settled=False
    )
    assert Listing.from_wire(listing.to_wire()) == listing
    assert len(set(listing.uids)) == len(some)


@given(st.integers(0, len(LISTING.to_wire()) - 1), st.integers(1, 255))
def test_a_single_changed_octet_is_noticed(at: int, by: int) -> None:
    data = bytearray(LISTING.to_wire())
    data[at] ^= by
    with pytest.raises(ListingError):
        Listing.from_wire(bytes(data))


def test_no_other_directory_can_be_meant() -> None:
    with pytest.raises(ListingError, match="elsewhere"):
        Listing.from_wire(dataclasses.replace(LISTING, names=["1", "../new/2", "3"]).to_wire())


@given(st.integers(0, len(LISTING.to_wire()) - 1))
def test_a_cut_file_is_noticed(end: int) -> None:
    with pytest.raises(ListingError):
        Listing.from_wire(LISTING.to_wire()[:end])


@given(st.binary(max_size=200), st.booleans())
def test_any_octets_are_a_listing_or_an_error(data: bytes, begun: bool) -> None:
    with pytest.raises(ListingError):
        Listing.from_wire(LISTING.to_wire()[:16] + data if begun else data)
