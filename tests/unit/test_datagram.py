"""UDP checks (protocol.md §6): fixed sizes, nothing believed without its MAC, no answer longer than its question."""

import contextlib
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.datagram import (
    CHECK_SIZE,
    MAX_COUNT,
    TOKEN_ANSWER_SIZE,
    TOKEN_REQUEST_SIZE,
    TOKEN_SIZE,
    UNKNOWN_SIZE,
    WAITING_SIZE,
    Check,
    DatagramError,
    MacKey,
    Token,
    Unknown,
    Waiting,
    answer_from_wire,
    check_to_wire,
    token_from_wire,
    token_request_from_wire,
    token_request_to_wire,
    token_to_wire,
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
    assert check.authentic(MacKey(key))


@given(IDS, COUNTS, SERIALS, KEYS)
def test_an_answer_arrives(nonce: bytes, count: int, serial: int, key: bytes) -> None:
    data = waiting_to_wire(nonce, count, serial, MacKey(key))
    assert len(data) == WAITING_SIZE
    assert answer_from_wire(data, nonce, key) == Waiting(count, serial)


def test_the_octets_are_those_of_the_protocol() -> None:
    signed = b"STUB\x01\x01\0\0" + COOKIE + NONCE
    assert check_to_wire(COOKIE, NONCE, KEY) == signed + hmac.new(KEY, signed, hashlib.sha256).digest()
    signed = b"STUB\x01\x02\0\0" + NONCE + b"\0\0\0\x05" + b"\0\0\0\0\0\0\x01\0"
    assert waiting_to_wire(NONCE, 5, 256, MacKey(KEY)) == signed + hmac.new(KEY, signed, hashlib.sha256).digest()
    assert unknown_to_wire(NONCE) == b"STUB\x01\x03\0\0" + NONCE


def test_more_posts_than_fit_are_as_many_as_fit() -> None:
    assert answer_from_wire(waiting_to_wire(NONCE, 2**32 + 7, 1, MacKey(KEY)), NONCE, KEY) == Waiting(2**32 - 1, 1)


def test_no_answer_is_longer_than_its_question() -> None:
    assert max(WAITING_SIZE, UNKNOWN_SIZE) <= CHECK_SIZE
    assert TOKEN_ANSWER_SIZE <= TOKEN_REQUEST_SIZE


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
        assert not check.authentic(MacKey(KEY))


@given(st.integers(0, WAITING_SIZE * 8 - 1))
def test_an_answer_with_any_bit_flipped_is_refused(bit: int) -> None:
    with pytest.raises(DatagramError):
        answer_from_wire(flipped(waiting_to_wire(NONCE, 1, 1, MacKey(KEY)), bit), NONCE, KEY)


def test_another_key_or_another_nonce_is_refused() -> None:
    assert not Check.from_wire(check_to_wire(COOKIE, NONCE, KEY)).authentic(MacKey(KEY[::-1]))
    for nonce, key in ((NONCE, KEY[::-1]), (COOKIE, KEY)):
        with pytest.raises(DatagramError):
            answer_from_wire(waiting_to_wire(NONCE, 1, 1, MacKey(KEY)), nonce, key)


def test_a_check_is_no_answer_and_an_answer_no_check() -> None:
    with pytest.raises(DatagramError):
        answer_from_wire(check_to_wire(COOKIE, NONCE, KEY), COOKIE, KEY)
    with pytest.raises(DatagramError):
        Check.from_wire(waiting_to_wire(NONCE, 1, 1, MacKey(KEY)))


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda tail: b"STUB\x01\x01\0\0" + tail))
def test_any_octets_are_a_check_or_a_datagram_error(data: bytes) -> None:
    try:
        assert not Check.from_wire(data).authentic(MacKey(KEY))
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


@given(st.binary(max_size=64), st.binary(max_size=200))
def test_a_prepared_key_gives_the_macs_of_rfc_2104(key: bytes, data: bytes) -> None:
    assert MacKey(key).mac(data) == hmac.new(key, data, hashlib.sha256).digest()


def test_a_key_longer_than_a_block_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError, match="64 octets"):
        MacKey(bytes(65))


# Tokens, §6.4 and §6.5

TOKEN = Token(bytes(range(TOKEN_SIZE)), 421)


@given(IDS, st.binary(min_size=TOKEN_SIZE, max_size=TOKEN_SIZE), st.integers(0, 2**32 - 1))
def test_a_question_for_a_token_and_its_answer_arrive(nonce: bytes, token: bytes, lifetime: int) -> None:
    question = token_request_to_wire(nonce)
    assert len(question) == TOKEN_REQUEST_SIZE == CHECK_SIZE
    assert token_request_from_wire(question) == nonce
    answer = token_to_wire(nonce, Token(token, lifetime))
    assert len(answer) == TOKEN_ANSWER_SIZE < TOKEN_REQUEST_SIZE
    assert token_from_wire(answer, nonce) == Token(token, lifetime)


def test_the_octets_of_a_token_are_those_of_the_protocol() -> None:
    assert token_request_to_wire(NONCE) == b"STUB\x01\x04\0\0" + NONCE + bytes(48)
    assert token_to_wire(NONCE, TOKEN) == b"STUB\x01\x05\0\0" + NONCE + TOKEN.octets + b"\0\0\x01\xa5"


def test_a_token_for_another_question_is_refused() -> None:
    for data in (token_to_wire(COOKIE, TOKEN), token_to_wire(NONCE, TOKEN)[:-1], token_request_to_wire(NONCE)):
        with pytest.raises(DatagramError):
            token_from_wire(data, NONCE)


@given(st.binary(max_size=100) | st.binary(max_size=80).map(lambda tail: b"STUB\x01\x04\0\0" + tail))
def test_any_octets_ask_for_a_token_or_are_a_datagram_error(data: bytes) -> None:
    with contextlib.suppress(DatagramError):
        assert token_request_to_wire(token_request_from_wire(data)) == data


@given(st.binary(max_size=100), st.integers(0, 6))
def test_any_octets_are_a_token_or_a_datagram_error(tail: bytes, kind: int) -> None:
    for data in (tail, b"STUB\x01" + bytes((kind, 0, 0)) + NONCE + tail):
        with contextlib.suppress(DatagramError):
            assert token_to_wire(NONCE, token_from_wire(data, NONCE)) == data


def test_a_nonce_of_another_size_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError, match="16 octets"):
        token_request_to_wire(b"")
