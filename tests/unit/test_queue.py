"""The gateway's queue on disk: its formats, its states, and what a crash leaves of it."""

import os
import select
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubmail.address import Address
from stubmail.errors import Exit, PermanentError, TemporaryError
from stubmail.queue import (
    MAX_RECIPIENTS,
    Bell,
    Item,
    ItemError,
    Outcome,
    Progress,
    Recipient,
    State,
    new_queue_id,
    ring,
)
from stubmail.queue.item import MAX_FIRST_LINE, parse_envelope, parse_first_line
from tests.support.gateway import ALICE, BOB, CAROL, MESSAGE, accept, make_item, make_queue

LOCALS = st.from_regex(r"[a-z0-9+é]{1,12}", fullmatch=True)
ADDRESSES = st.builds(Address, LOCALS, st.just("beta.example"))
ITEMS = st.builds(
    Item,
    id=st.builds(new_queue_id, st.floats(0, 4e9), st.just(lambda bits: 5)),
    account=st.text(max_size=10).filter(lambda text: text.isprintable()),
    accepted=st.floats(0, 4e9),
    mail_from=st.none() | ADDRESSES,
    sender=ADDRESSES,
    recipients=st.lists(
        st.builds(
            Recipient,
            ADDRESSES,
            st.binary(min_size=16, max_size=16),
            st.sampled_from(["", "NEVER", "SUCCESS,DELAY"]),
            st.sampled_from(["", "rfc822;bob@beta.example", "utf-8;bøb@beta.example"]),
        ),
        max_size=5,
    ).map(tuple),
    size=st.integers(0, 10**9),
    utf8=st.booleans(),
    eight_bit=st.booleans(),
    ret=st.sampled_from(["", "FULL", "HDRS"]),
    envid=st.sampled_from(["", "QQ314159"]),
)
OUTCOMES = st.builds(
    Outcome,
    st.sampled_from(State),
    st.sampled_from(["", "5.1.1"]),
    st.text(max_size=20),
    st.just("stub"),
    st.integers(-1, 3),
)


@given(ITEMS)
def test_an_envelope_survives_its_file(item: Item) -> None:
    data = item.head_to_wire()
    first, length, size = parse_first_line(data[:40])
    assert size == item.size
    assert first + length == len(data)
    assert parse_envelope(data[first:], size) == item


@given(
    st.lists(OUTCOMES, max_size=5),
    st.integers(0, 99),
    st.floats(0, 4e9),
    st.integers(0, 9),
    st.dictionaries(st.integers(0, 5), st.integers(1, 9), max_size=3),
)
def test_progress_survives_its_file(
    outcomes: list[Outcome], attempts: int, when: float, notices: int, delayed: dict[int, int]
) -> None:
    progress = Progress(outcomes, attempts, when, notices, delayed)
    assert Progress.from_wire(progress.to_wire(), len(outcomes)) == progress


def test_records_written_before_there_were_parameters_are_read() -> None:
    head = (
        b'{"id": "1K0RSDH7FNVKBET", "account": "alice", "accepted": 1800000000.5, "mail_from": "alice@alpha.example", '
        b'"sender": "alice@alpha.example", "recipients": [["bob@beta.example", "000102030405060708090a0b0c0d0e0f"]], '
        b'"utf8": false, "eight_bit": true}'
    )
    item = parse_envelope(head, 7)
    assert item == Item(
        "1K0RSDH7FNVKBET", "alice", 1800000000.5, ALICE, ALICE, (Recipient(BOB, bytes(range(16))),), 7, False, True
    )
    assert item.head_to_wire().endswith(head), "and what says nothing new is written as it was"
    assert item.recipients[0].wants("FAILURE")
    assert not item.recipients[0].wants("SUCCESS")
    progress = b'{"attempts": 2, "next_try": 5.5, "notices": 1, "outcomes": [["failed", "5.1.1", "no", "stub", 1]]}'
    assert Progress.from_wire(progress, 1) == Progress([Outcome(State.FAILED, "5.1.1", "no", "stub", 1)], 2, 5.5, 1)


def test_the_longest_envelope_there_can_be_is_read_again() -> None:
    local, domain = "é" * 32, ".".join(["x" * 61, "y" * 61, "z" * 61])
    wanted = Recipient(Address(local, domain), bytes(16), "SUCCESS,FAILURE,DELAY", "rfc822;" + '"' * 493)
    item = replace(make_item(1), recipients=(wanted,) * MAX_RECIPIENTS)
    data = item.head_to_wire()
    first, length, size = parse_first_line(data[:MAX_FIRST_LINE])
    assert parse_envelope(data[first : first + length], size) == item


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_what_is_damaged_is_said_to_be(data: bytes) -> None:
    for parse in (parse_first_line, lambda d: parse_envelope(d, 0), lambda d: Progress.from_wire(d, 1)):
        with pytest.raises(ItemError):
            parse(data)


@pytest.mark.parametrize("text", [b"[]", b"{}", b"null", b'{"id": "x"}', b'{"id": 5}', b"[" * 100_000])
def test_json_of_another_shape_is_damaged(text: bytes) -> None:
    with pytest.raises(ItemError):
        parse_envelope(text, 0)
    with pytest.raises(ItemError):
        Progress.from_wire(text, 0)


def test_progress_of_another_number_of_recipients_is_damaged() -> None:
    with pytest.raises(ItemError, match="recipients"):
        Progress.from_wire(Progress.fresh(2).to_wire(), 3)


def test_queue_ids_sort_by_time_and_look_alike() -> None:
    ids = [new_queue_id(now, lambda _: 2**20 - 1) for now in (0.0, 1.0, 1_800_000_000.0, 1_800_000_000.1, 30e9)]
    assert ids == sorted(ids)
    assert {len(queue_id) for queue_id in ids} == {15}


def test_outcomes_follow_the_kind_of_error() -> None:
    assert Outcome.of(PermanentError("5.1.1", "no")).state is State.FAILED
    assert Outcome.of(TemporaryError("4.4.1", "later")).state is State.WAITING


def test_messages_accepted_together_are_found_one_by_one(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    accept(queue, make_item(1), make_item(2, BOB, CAROL), make_item(3))
    [name] = queue.arrivals()
    records = queue.arrived(name)
    assert [record.item.id for record in records] == [make_item(number).id for number in (1, 2, 3)]
    assert [record.content() for record in records] == [MESSAGE] * 3
    assert records[1].header(10) == MESSAGE[:10]


@pytest.mark.parametrize("together", [1, 3])
def test_a_filed_message_outlives_the_file_it_came_in(tmp_path: Path, together: int) -> None:
    queue = make_queue(tmp_path)
    accept(queue, *(make_item(number) for number in range(together)))
    [name] = queue.arrivals()
    stored = queue.file(queue.arrived(name)[-1])
    queue.file(queue.arrived(name)[-1])  # again, as after a crash
    queue.remove_arrival(name, durably=True)
    assert queue.arrivals() == []
    assert queue.filed() == [stored.item.id]
    found = queue.find(stored.item.id)
    assert found is not None
    assert found.item == stored.item
    assert found.content() == stored.content() == MESSAGE


def test_progress_notices_and_orders_go_with_the_message(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    accept(queue, make_item(1))
    [name] = queue.arrivals()
    stored = queue.file(queue.arrived(name)[0])
    queue_id = stored.item.id
    assert queue.progress(stored.item) == Progress.fresh(1)
    progress = Progress([Outcome(State.FAILED, "5.1.1", "no", "stub", 1)], 3, 5.0, 1)
    queue.save(queue_id, progress)
    queue.tell(queue_id, 1)
    queue.order(queue_id, "hold")
    assert queue.progress(stored.item) == progress
    assert queue.told(queue_id) == 1
    assert queue.orders() == [(queue_id, "hold")]
    queue.finish(queue_id)
    assert queue.find(queue_id) is None
    assert queue.told(queue_id) == 0
    assert queue.orders() == []
    queue.tell(queue_id, 2)
    assert queue.told(queue_id) == 0


def test_what_a_finished_message_left_behind_is_removed_at_the_next_start(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    queue.save("GONE", Progress.fresh(1))
    (tmp_path / "queue" / ".tmp-1").write_bytes(b"x")
    queue.clean()
    assert list((tmp_path / "queue").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_file_is_set_aside_not_lost(tmp_path: Path, damage: str) -> None:
    queue = make_queue(tmp_path)
    accept(queue, make_item(1))
    [name] = queue.arrivals()
    path = queue.incoming / name
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-5], "garbage": b"\0" * 50, "empty": b""}[damage])
    with pytest.raises(ItemError):
        queue.arrived(name)
    assert queue.messages() == []
    queue.set_aside(name)
    assert queue.arrivals() == []
    assert len(list(queue.incoming.iterdir())) == 1


def test_a_message_in_both_places_is_listed_once(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    accept(queue, make_item(1), make_item(2))
    [name] = queue.arrivals()
    queue.file(queue.arrived(name)[1])
    assert [stored.item.id for stored in queue.messages()] == [make_item(1).id, make_item(2).id]


def test_there_is_one_process_in_a_role(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    with queue.lock("courier"):
        with queue.lock("receiver"):
            pass
        with pytest.raises(Exit) as caught:
            queue.lock("courier")
        assert caught.value.status == os.EX_UNAVAILABLE
    with queue.lock("courier"):
        pass


def test_the_bell_is_heard_once_for_many_rings(tmp_path: Path) -> None:
    path = tmp_path / "bell"
    assert not ring(path)
    bell = Bell(path)
    try:
        for _ in range(100_000):  # more than a FIFO holds
            assert ring(path)
        assert select.select([bell], [], [], 0)[0]
        bell.clear()
        assert not select.select([bell], [], [], 0)[0]
    finally:
        bell.close()
    assert not ring(path)
    Bell(path).close()


def test_a_bell_is_not_put_in_the_place_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "bell").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        Bell(tmp_path / "bell")
