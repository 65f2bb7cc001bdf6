"""The protected envelope (protocol.md §7.1, §7.2): one form only, and tags that tell nothing."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.envelope import MAX_ENVELOPE, MAX_TAGS, Envelope, EnvelopeError, fill_up, tag, unwrap

ALICE = Address.parse("alice@alpha.example")
WHEN = datetime(2026, 11, 21, 9, tzinfo=UTC)
TAGS = (bytes(16), b"\xff" * 16)
BLOCK = (
    b"Stub-Version: 1\r\n"
    b"Stub-From: alice@alpha.example\r\n"
    b"Stub-Date: 2026-11-21T09:00:00Z\r\n"
    b"Stub-Recipient: 00000000000000000000000000000000\r\n"
    b"Stub-Recipient: ffffffffffffffffffffffffffffffff\r\n"
    b"\r\n"
)

TAG_SETS = st.sets(st.binary(min_size=16, max_size=16), min_size=1, max_size=20).map(lambda tags: tuple(sorted(tags)))
TIMES = st.datetimes(timezones=st.just(UTC)).map(lambda time: time.replace(microsecond=0))
SENDERS = st.sampled_from(["a@b", "jürgen@alpha.example", "a" * 64 + "@" + ".".join(["b" * 61] * 3)]).map(Address.parse)


def test_the_form() -> None:
    envelope = Envelope(ALICE, WHEN, TAGS)
    assert envelope.wrap(b"From: x\r\n\r\nhello\r\n") == BLOCK + b"From: x\r\n\r\nhello\r\n"
    assert unwrap(BLOCK) == (envelope, b"")


@given(SENDERS, TIMES, TAG_SETS, st.binary())
@example(ALICE, datetime(1, 1, 1, tzinfo=UTC), TAGS, b"\r\n")
@example(ALICE, WHEN, TAGS, b"Stub-Recipient: 00000000000000000000000000000000\r\n")
def test_what_is_wrapped_is_unwrapped(sender: Address, date: datetime, tags: tuple[bytes, ...], message: bytes) -> None:
    envelope = Envelope(sender, date, tags)
    assert unwrap(envelope.wrap(message)) == (envelope, message)


def test_the_date_is_in_utc() -> None:
    there = Envelope(ALICE, datetime(2026, 11, 21, 11, tzinfo=timezone(timedelta(hours=2))), TAGS)
    assert there.wrap(b"") == BLOCK


@given(st.binary() | st.tuples(st.integers(0, len(BLOCK)), st.binary(max_size=4)).map(lambda t: damaged(*t)))
def test_any_octets_are_an_envelope_or_an_envelope_error(data: bytes) -> None:
    try:
        envelope, message = unwrap(data)
    except EnvelopeError:
        return
    assert len(data) - len(message) <= MAX_ENVELOPE
    assert unwrap(envelope.wrap(message)) == (envelope, message)


def damaged(at: int, junk: bytes) -> bytes:
    return BLOCK[:at] + junk + BLOCK[at + len(junk) :]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Version: 1", b"Version: 2"),
        (b"Version: 1", b"Version:  1"),
        (b"Stub-Version", b"stub-version"),
        (b"\r\n", b"\n"),
        (b"alice@alpha.example", b"alice"),
        (b"alice@alpha.example", b"Alice <alice@alpha.example>"),
        (b"alice@alpha.example", b"\xff\xfe@alpha.example"),
        (b"alice@alpha.example", b"a" * 300 + b"@alpha.example"),
        (b"09:00:00Z", b"09:00:00"),
        (b"09:00:00Z", b"09:00:00.5Z"),
        (b"09:00:00Z", b"09:00:00+00:00"),
        (b"09:00:00Z", b"09:00:61Z"),
        (b"09:00:00Z", b"24:00:00Z"),
        (b"2026-11-21", b"2026-02-30"),
        (b"2026-11-21", b"0000-11-21"),
        (b"2026-11-21", "２０２６-11-21".encode()),
        (b"f" * 32, b"F" * 32),
        (b"f" * 32, b"f" * 31),
        (b"f" * 32, b"f" * 33),
        (b"f" * 32, b"0" * 32),  # twice the same
    ],
)
def test_no_envelopes(old: bytes, new: bytes) -> None:
    changed = BLOCK.replace(old, new)
    assert changed != BLOCK
    with pytest.raises(EnvelopeError):
        unwrap(changed)


@pytest.mark.parametrize("line", [0, 1, 2, 5])
def test_no_line_may_be_missing(line: int) -> None:
    lines = BLOCK.splitlines(keepends=True)
    with pytest.raises(EnvelopeError):
        unwrap(b"".join(lines[:line] + lines[line + 1 :]))


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_lines_stand_in_their_order(line: int) -> None:
    lines = BLOCK.splitlines(keepends=True)
    lines[line - 1], lines[line] = lines[line], lines[line - 1]
    with pytest.raises(EnvelopeError):
        unwrap(b"".join(lines))


def test_as_many_tags_as_the_protocol_allows() -> None:
    tags = tuple(number.to_bytes(16, "big") for number in range(MAX_TAGS + 1))
    longest = Address.parse("a" * 64 + "@" + "b" * 61 + ".c" * 64)
    envelope = Envelope(longest, WHEN, tags[:MAX_TAGS])
    data = envelope.wrap(b"")
    assert len(data) == MAX_ENVELOPE
    assert unwrap(data) == (envelope, b"")
    with pytest.raises(EnvelopeError):
        unwrap(Envelope(ALICE, WHEN, tags).wrap(b""))
    with pytest.raises(EnvelopeError):
        unwrap(Envelope(ALICE, WHEN, ()).wrap(b""))


# Tags


def test_a_tag_is_a_hash_of_post_key_and_address() -> None:
    post, fingerprint = bytes(range(16)), "0123456789ABCDEF0123456789ABCDEF01234567"
    text = b"stubmail recipient 1\x00" + post + bytes.fromhex(fingerprint) + b"bob@beta.example"
    assert tag(post, fingerprint, Address.parse("Bob@BETA.example")) == hashlib.sha256(text).digest()[:16]


def test_a_tag_depends_on_each_of_them() -> None:
    post, fingerprint, address = bytes(16), "A" * 40, Address.parse("bob@beta.example")
    tags = {
        tag(post, fingerprint, address),
        tag(b"\1" * 16, fingerprint, address),
        tag(post, "B" * 40, address),
        tag(post, "A" * 64, address),
        tag(post, fingerprint, Address.parse("bob+x@beta.example")),
    }
    assert len(tags) == 5


@given(st.sets(st.binary(min_size=16, max_size=16), max_size=40))
def test_tags_are_filled_up_to_a_power_of_two(tags: set[bytes]) -> None:
    filled = fill_up(tags, secrets.token_bytes)
    assert tags <= set(filled)
    assert list(filled) == sorted(set(filled))
    assert len(filled) == max(8, 1 << (len(tags) - 1).bit_length() if tags else 8)


def test_a_random_tag_that_is_there_already_is_drawn_again() -> None:
    draws = iter([bytes(16), bytes(16), *(bytes([number]) * 16 for number in range(1, 8))])
    filled = fill_up([bytes(16)], lambda size: next(draws))
    assert filled == tuple(bytes([number]) * 16 for number in range(8))


def test_no_more_recipients_than_one_post_can_name() -> None:
    tags = {number.to_bytes(16, "big") for number in range(MAX_TAGS)}
    assert len(fill_up(tags, secrets.token_bytes)) == MAX_TAGS
    with pytest.raises(ValueError, match="4097 recipients"):
        fill_up(tags | {b"\xff" * 16}, secrets.token_bytes)
