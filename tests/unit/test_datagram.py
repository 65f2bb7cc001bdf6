"""UDP checks (protocol.md §6): fixed sizes, nothing believed without its MAC, no answer longer than its question."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.datagram import (
    CHECK_SIZE,
    MAX_COUNT,
    UNKNOWN_SIZE,
    WAITING_SIZE,
    Check,
    DatagramError,
    Unknown,
    Waiting,
    answer_from_wire,
    check_to_wire,
    unknown_to_wire,
    waiting_to_wire,
)

COOKIE = bytes(range(16))
NONCE = bytes(range(16, 32))
KEY = bytes(range(32, 64))

IDS = st.binary(min_size=16, max_size=16)
KEYS = st.binary(min_size=32, max_size=32)
COUNTS = st.integers(0, MAX_COUNT)
SERIALS = st.integers(0, 2**64 - 1)


@given(IDS, IDS, KEYS)
def test_a_check_arrives(cookie: bytes, nonce: bytes, key: bytes) -> None:
    data = check_to_wire(cookie, nonce, key)
    check = Check.from_wire(data)
    assert len(data) == CHECK_SIZE
    assert (check.cookie, check.nonce) == (cookie, nonce)
    assert check.authentic(key)


@given(IDS, COUNTS, SERIALS, KEYS)
def test_an_answer_arrives(nonce: bytes, count: int, serial: int, key: bytes) -> None:
    data = waiting_to_wire(nonce, count, serial, key)
    assert len(data) == WAITING_SIZE
    assert answer_from_wire(data, nonce, key) == Waiting(count, serial)


def test_the_octets_are_those_of_the_protocol() -> None:
    signed = b"STUB\x01\x01\0\0" + COOKIE + NONCE
    assert check_to_wire(COOKIE, NONCE, KEY) == signed + hmac.new(KEY, signed, hashlib.sha256).digest()
    signed = b"STUB\x01\x02\0\0" + NONCE + b"\0\0\0\x05" + b"\0\0\0\0\0\0\x01\0"
    assert waiting_to_wire(NONCE, 5, 256, KEY) == signed + hmac.new(KEY, signed, hashlib.sha256).digest()
    assert unknown_to_wire(NONCE) == b"STUB\x01\x03\0\0" + NONCE


def test_more_posts_than_fit_are_as_many_as_fit() -> None:
    assert answer_from_wire(waiting_to_wire(NONCE, 2**32 + 7, 1, KEY), NONCE, KEY) == Waiting(2**32 - 1, 1)


def test_no_answer_is_longer_than_its_question() -> None:
    assert max(WAITING_SIZE, UNKNOWN_SIZE) <= CHECK_SIZE


def test_an_unknown_cookie() -> None:
    assert answer_from_wire(unknown_to_wire(NONCE), NONCE, KEY) == Unknown()
    with pytest.raises(DatagramError):
        answer_from_wire(unknown_to_wire(COOKIE), NONCE, KEY)


@given(st.integers(0, CHECK_SIZE * 8 - 1))
def test_a_check_with_any_bit_flipped_is_refused(bit: int) -> None:
    data = flipped(check_to_wire(COOKIE, NONCE, KEY), bit)
    try:
        check = Check.from_wire(data)
    except DatagramError:
        assert bit < 64, "header"
    else:
        assert not check.authentic(KEY)


@given(st.integers(0, WAITING_SIZE * 8 - 1))
def test_an_answer_with_any_bit_flipped_is_refused(bit: int) -> None:
    with pytest.raises(DatagramError):
        answer_from_wire(flipped(waiting_to_wire(NONCE, 1, 1, KEY), bit), NONCE, KEY)


def test_another_key_or_another_nonce_is_refused() -> None:
    assert not Check.from_wire(check_to_wire(COOKIE, NONCE, KEY)).authentic(KEY[::-1])
    for nonce, key in ((NONCE, KEY[::-1]), (COOKIE, KEY)):
        with pytest.raises(DatagramError):
            answer_from_wire(waiting_to_wire(NONCE, 1, 1, KEY), nonce, key)


def test_a_check_is_no_answer_and_an_answer_no_check() -> None:
    with pytest.raises(DatagramError):
        answer_from_wire(check_to_wire(COOKIE, NONCE, KEY), COOKIE, KEY)
    with pytest.raises(DatagramError):
        Check.from_wire(waiting_to_wire(NONCE, 1, 1, KEY))


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda tail: b"STUB\x01\x01\0\0" + tail))
def test_any_octets_are_a_check_or_a_datagram_error(data: bytes) -> None:
    try:
        assert not Check.from_wire(data).authentic(KEY)
        assert len(data) == CHECK_SIZE
    except DatagramError:
        pass


@given(st.binary(max_size=100), st.integers(0, 5))
def test_any_octets_are_an_answer_or_a_datagram_error(tail: bytes, kind: int) -> None:
    for data in (tail, b"STUB\x01" + bytes((kind, 0, 0)) + NONCE + tail):
        try:
            assert answer_from_wire(data, NONCE, KEY) == Unknown()
            assert data == unknown_to_wire(NONCE)
        except DatagramError:
            pass


@pytest.mark.parametrize(("cookie", "nonce"), [(b"", NONCE), (COOKIE, b""), (COOKIE + b"x", NONCE)])
def test_ids_of_another_size_are_a_bug_of_ours(cookie: bytes, nonce: bytes) -> None:
    with pytest.raises(ValueError, match="16 octets"):
        check_to_wire(cookie, nonce, KEY)


def flipped(data: bytes, bit: int) -> bytes:
    octets = bytearray(data)
    octets[bit // 8] ^= 1 << bit % 8
    return bytes(octets)
