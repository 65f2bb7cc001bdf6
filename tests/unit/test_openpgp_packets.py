import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.openpgp import OpenPGPError, split
from stubmail.openpgp.message import ANYONE, EncryptedMessage
from stubmail.openpgp.packets import LITERAL, PKESK, SEIPD, USER_ID, armor, dearmor, read_packets
from tests.support.keys import packet

TITLE = "PGP PUBLIC KEY BLOCK"


def length(size: int, form: int) -> bytes:
    """Write a body length in one of the forms of RFC 9580 §4.2.1 that can hold it."""
    if form == 1 and size < 192:
        return bytes([size])
    if form == 2 and 192 <= size < 8384:
        return bytes([(size - 192 >> 8) + 192, (size - 192) & 0xFF])
    return b"\xff" + size.to_bytes(4, "big")


@given(st.lists(st.tuples(st.integers(1, 63), st.binary(max_size=9000), st.sampled_from([1, 2, 5])), max_size=5))
def test_packets_of_every_length_form_are_read_back(items: list[tuple[int, bytes, int]]) -> None:
    data = b"".join(bytes([0xC0 | tag]) + length(len(body), form) + body for tag, body, form in items)
    found = list(read_packets(data, 5))
    assert [(packet.tag, packet.body) for packet in found] == [(tag, body) for tag, body, _ in items]
    assert b"".join(packet.raw for packet in found) == data


@given(st.integers(1, 15), st.binary(max_size=300), st.sampled_from([0, 1, 2]))
def test_legacy_packets_are_read_back(tag: int, body: bytes, kind: int) -> None:
    width = (1, 2, 4)[kind]
    body = body[: 256**width - 1]
    data = bytes([0x80 | tag << 2 | kind]) + len(body).to_bytes(width, "big") + body
    (found,) = read_packets(data, 1)
    assert (found.tag, found.body, found.raw) == (tag, body, data)


@given(st.lists(st.integers(9, 12), max_size=4), st.binary(max_size=100))
def test_a_body_in_pieces_is_joined(powers: list[int], rest: bytes) -> None:
    pieces = [bytes(1 << power) for power in powers]
    data = bytes([0xC0 | LITERAL]) + b"".join(
        bytes([224 + power]) + piece for power, piece in zip(powers, pieces, strict=True)
    )
    (found,) = read_packets(data + bytes([len(rest)]) + rest, 1)
    assert found.body == b"".join(pieces) + rest


def test_only_data_packets_may_come_in_pieces() -> None:
    pieces = bytes([224 + 9]) + bytes(512) + b"\0"
    with pytest.raises(OpenPGPError, match="pieces"):
        list(read_packets(bytes([0xC0 | USER_ID]) + pieces, 1))


def test_a_flood_of_tiny_pieces_is_refused() -> None:
    with pytest.raises(OpenPGPError, match="pieces"):
        list(read_packets(bytes([0xC0 | LITERAL]) + bytes([224, 0]) * 100_000 + b"\0", 1))


def test_a_flood_of_packets_is_refused() -> None:
    with pytest.raises(OpenPGPError) as refusal:
        list(read_packets(packet(USER_ID, b"") * 100, 99))
    assert refusal.value.reason == "too-large"


@given(st.binary(max_size=600))
def test_any_bytes_are_packets_or_refused(data: bytes) -> None:
    try:
        found = list(read_packets(data, 50))
    except OpenPGPError:
        return
    assert b"".join(packet.raw for packet in found) == data


@given(st.data())
def test_cut_data_is_refused(data: st.DataObject) -> None:
    whole = packet(USER_ID, data.draw(st.binary(min_size=1, max_size=50)))
    with pytest.raises(OpenPGPError):
        list(read_packets(whole[: data.draw(st.integers(1, len(whole) - 1))], 1))


@given(st.binary(max_size=500))
def test_armour_comes_off_again(data: bytes) -> None:
    text = armor(data, TITLE)
    assert max(map(len, text.splitlines())) <= 76
    assert dearmor(text, TITLE) == data
    assert dearmor(b"some words\r\n" + text.replace(b"\n", b"\r\n") + b"more\r\n", TITLE) == data


def test_armour_with_headers_and_without_checksum_is_read() -> None:
    text = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: a line\n\nAAEC\n-----END PGP PUBLIC KEY BLOCK-----\n"
    assert dearmor(text, TITLE) == b"\0\1\2"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        armor(b"x", TITLE) * 2,
        armor(b"x", "PGP MESSAGE"),
        armor(b"x", TITLE) + armor(b"x", "PGP MESSAGE"),
        armor(b"x", TITLE).replace(b"END", b"STOP"),
        armor(b"x", TITLE).replace(b"\n\n", b"\n"),
        armor(b"x" * 60, TITLE).replace(b"eHh4", b"e*h4"),
        b"-----END PGP PUBLIC KEY BLOCK-----\n\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    ],
)
def test_anything_but_one_sound_block_is_refused(text: bytes) -> None:
    with pytest.raises(OpenPGPError):
        dearmor(text, TITLE)


@given(st.binary(max_size=400))
def test_any_text_is_armour_or_refused(text: bytes) -> None:
    try:
        dearmor(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n" + text, TITLE)
    except OpenPGPError as error:
        assert error.reason == "malformed"


def session_key(key_id: str) -> bytes:
    return packet(PKESK, b"\x03" + bytes.fromhex(key_id) + b"\x12 and so on")


HEADS = [session_key(key_id * 8) for key_id in ("AA", "BB", "CC")]
BODY = packet(SEIPD, b"\x01 and so on")


def test_split_gives_heads_in_order_and_the_shared_body() -> None:
    assert split(b"".join(HEADS) + BODY) == (HEADS, BODY)


def test_only_for_leaves_other_recipients_out() -> None:
    hidden = session_key(ANYONE)
    message = EncryptedMessage.parse(b"".join([*HEADS, hidden]) + BODY)
    assert message.only_for({"BB" * 8}) == HEADS[1] + hidden + BODY
    assert message.in_order(["CC" * 8, "AA" * 8]) == HEADS[2] + HEADS[0] + BODY
    with pytest.raises(OpenPGPError) as refusal:
        EncryptedMessage.parse(HEADS[0] + BODY).only_for({"BB" * 8})
    assert refusal.value.reason == "not-for-us"


@pytest.mark.parametrize(
    ("key", "size"), [("04" + "AB" * 20, 21), ("06" + "CD" * 32, 33)], ids=["version 4 key", "version 6 key"]
)
def test_session_keys_of_version_6_name_a_fingerprint(key: str, size: int) -> None:
    head = packet(PKESK, bytes([6, size]) + bytes.fromhex(key) + b"\x19 and so on")
    (found,) = EncryptedMessage.parse(head + BODY).session_keys
    assert found.key_id in key


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "malformed"),
        (BODY, "malformed"),
        (HEADS[0], "malformed"),
        (HEADS[0] + BODY + BODY, "malformed"),
        (HEADS[0] + BODY + b"\0", "malformed"),
        (HEADS[0] + packet(LITERAL, b"b\0\0\0\0\0text"), "malformed"),
        (HEADS[0] + packet(9, b"no integrity protection"), "unsupported"),
        (packet(PKESK, b"") + BODY, "malformed"),
        (packet(PKESK, b"\x02" + bytes(20)) + BODY, "malformed"),
        (b"-----BEGIN PGP MESSAGE-----", "malformed"),
        (HEADS[0] * 5000 + BODY, "too-large"),
    ],
)
def test_what_is_not_one_encrypted_message_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(OpenPGPError) as refusal:
        split(data)
    assert refusal.value.reason == reason


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"".join(HEADS) + tail))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        heads, body = split(data)
    except OpenPGPError:
        return
    assert b"".join(heads) + body == data
