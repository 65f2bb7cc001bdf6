"""What the gateway notes of stored mail: found again by post id, bounded, and harmless when it is damaged."""

import logging
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail import sent
from stubmail.address import Address
from stubmail.cookies import account_directory
from stubmail.sent import SEGMENT_SECONDS, SLACK, Record, SentLog, SentRecords

ALICE, BOB, CARL = Address("alice", "alpha.example"), Address("bob", "beta.example"), Address("carl", "beta.example")
NOW = 1_800_000_000.0
HEADER = b"From: alice@alpha.example\r\nSubject: plan\r\n"


def post_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def record(number: int, header: bytes = HEADER) -> Record:
    return Record(ALICE, ((post_id(number), BOB),), header)


@pytest.fixture
def log(tmp_path: Path) -> SentLog:
    return SentLog(tmp_path, ALICE)


@pytest.fixture
def records(tmp_path: Path) -> SentRecords:
    return SentRecords(tmp_path, ALICE)


def segments(root: Path) -> list[Path]:
    return sorted(account_directory(root, ALICE).iterdir())


def test_a_message_is_found_by_the_ids_of_its_posts(log: SentLog, records: SentRecords) -> None:
    both = Record(None, ((post_id(1), BOB), (post_id(2), CARL)), HEADER, utf8=True)
    log.add([both, record(3)], NOW)
    log.add([record(4, b"")], NOW + 1)
    assert records.find([post_id(2), post_id(1), post_id(4), post_id(5)], NOW) == {
        post_id(1): both,
        post_id(2): both,
        post_id(4): record(4, b""),
    }


def test_records_written_before_there_were_parameters_are_read(records: SentRecords, tmp_path: Path) -> None:
    envelope = b'{"mail_from":"alice@alpha.example","posts":[["%s","bob@beta.example"]],"utf8":false}' % (b"01" * 16)
    directory = account_directory(tmp_path, ALICE)
    directory.mkdir(parents=True)
    (directory / f"{int(NOW):012d}").write_bytes(b"stubmail-sent 1 %d 0\n" % len(envelope) + envelope)
    [found] = records.find([b"\1" * 16], NOW).values()
    assert found == Record(ALICE, ((b"\1" * 16, BOB),), b"")
    assert found.to_wire() == b"stubmail-sent 1 %d 0\n" % len(envelope) + envelope


def test_accounts_have_records_of_their_own(log: SentLog, tmp_path: Path) -> None:
    log.add([record(1)], NOW)
    assert SentRecords(tmp_path, CARL).find([post_id(1)], 0) == {}


def test_nobody_else_may_read_them(log: SentLog, tmp_path: Path) -> None:
    log.add([record(1)], NOW)
    [segment] = segments(tmp_path)
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600
    assert stat.S_IMODE(segment.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("later", [SEGMENT_SECONDS + 1, -60])
def test_time_begins_another_segment(log: SentLog, records: SentRecords, tmp_path: Path, later: float) -> None:
    log.add([record(1)], NOW)
    log.add([record(2)], NOW + 5)
    log.add([record(3)], NOW + later)
    assert len(segments(tmp_path)) == 2
    assert len(records.find(map(post_id, (1, 2, 3)), NOW)) == 3


def test_a_post_is_looked_for_behind_the_time_when_it_was_stored(log: SentLog, records: SentRecords) -> None:
    log.add([record(1)], NOW)
    assert records.find([post_id(1)], NOW + SEGMENT_SECONDS)  # the clocks may differ, and a retry is noted late
    assert records.find([post_id(1)], NOW - 10**7)
    assert not records.find([post_id(1)], NOW + SEGMENT_SECONDS + 2 * SLACK)


def test_whole_segments_are_forgotten(log: SentLog, records: SentRecords, tmp_path: Path) -> None:
    log.add([record(1)], NOW)
    log.add([record(2)], NOW + 2 * SEGMENT_SECONDS)
    end = NOW + SEGMENT_SECONDS + SLACK
    assert not records.has_before(end - 1)
    assert records.forget_before(end - 1) == 0
    assert records.has_before(end)
    assert records.forget_before(end) == 1
    assert set(records.find([post_id(1), post_id(2)], 0)) == {post_id(2)}


def test_an_account_keeps_no_more_than_its_bounds(
    log: SentLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent, "SEGMENT_OCTETS", 1000)
    monkeypatch.setattr(sent, "ACCOUNT_OCTETS", 5000)
    for number in range(100):
        log.add([record(number, b"X: %s\r\n" % (b"y" * 400))], NOW + number)
    assert sum(segment.stat().st_size for segment in segments(tmp_path)) <= 5500
    monkeypatch.setattr(sent, "MAX_SEGMENTS", 3)
    for number in range(10):
        log.add([record(number)], NOW + number * SEGMENT_SECONDS * 2)
    assert len(segments(tmp_path)) == 3
    log.add([record(1)], NOW + 2 * sent.MAX_AGE)
    assert len(segments(tmp_path)) == 1


def test_what_stands_behind_damage_is_not_believed(log: SentLog, records: SentRecords, tmp_path: Path) -> None:
    log.add([record(1)], NOW)
    [segment] = segments(tmp_path)
    whole = segment.read_bytes()
    for end in range(len(whole)):
        segment.write_bytes(whole + whole.replace(post_id(1).hex().encode(), post_id(2).hex().encode())[:end])
        assert set(records.find([post_id(1), post_id(2)], NOW)) == {post_id(1)}


@given(data=st.binary(max_size=200))
def test_any_octets_are_a_segment(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    directory = account_directory(root, ALICE)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "000000000001").write_bytes(record(1).to_wire() + data)
    (directory / "000000000002").write_bytes(
        b'stubmail-sent 1 %d 0\n["%s", ' % (len(data) + 37, post_id(2).hex().encode()) + data
    )
    assert set(SentRecords(root, ALICE).find([post_id(1), post_id(2)], 0)) <= {post_id(1)}


def test_a_full_disk_is_told_and_the_next_segment_is_whole(
    log: SentLog, records: SentRecords, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    write = sent.os.write
    with monkeypatch.context() as patch:
        patch.setattr(sent.os, "write", lambda descriptor, data: write(descriptor, data[:10]))
        log.add([record(1)], NOW)
    assert "not-noted" in caplog.text
    log.add([record(2)], NOW + 1)
    assert set(records.find([post_id(1), post_id(2)], NOW)) == {post_id(2)}
