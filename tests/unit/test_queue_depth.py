"""How much waits in the queue and for how long, and which of its processes run."""

import time
from pathlib import Path

import pytest

from stubmail.errors import Exit
from stubmail.queue import Queue
from stubmail.queue.depth import Depth, DepthGauge
from tests.support.gateway import NOW, accept, make_item, make_queue


def test_an_empty_queue_has_no_oldest_message(tmp_path: Path) -> None:
    assert DepthGauge(make_queue(tmp_path)).measure() == Depth(0, 0, 0, None)


def test_messages_are_counted_where_they_are(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    gauge = DepthGauge(queue)
    accept(queue, make_item(1, accepted=NOW + 0.25), make_item(2, accepted=NOW + 1))
    accept(queue, make_item(3, accepted=NOW + 2))
    assert gauge.measure() == Depth(3, 0, 0, NOW + 0.25)
    first, second, third = queue.messages()
    for stored in (second, third):
        queue.file(stored)
    queue.remove_arrival(third.item.id, durably=False)
    queue.order(second.item.id, "hold")
    queue.order(first.item.id, "hold")  # which the courier has not filed yet
    assert gauge.measure() == Depth(2, 2, 1, NOW + 0.25)
    queue.remove_arrival(first.item.id, durably=False)
    assert gauge.measure() == Depth(0, 2, 1, NOW + 1)
    for stored in (second, third):
        queue.finish(stored.item.id)
    assert gauge.measure() == Depth(0, 0, 0, None)


def test_a_file_in_incoming_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = make_queue(tmp_path)
    gauge = DepthGauge(queue)
    accept(queue, make_item(1), make_item(2))
    gauge.measure()
    read: list[str] = []

    def count(_: Queue, name: str) -> int:
        read.append(name)
        return 1

    monkeypatch.setattr(Queue, "count", count)
    accept(queue, make_item(3))
    assert gauge.measure().incoming == 3
    assert read == [make_item(3).id]


def test_a_damaged_file_counts_as_nothing(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    (queue.incoming / make_item(1).id).write_bytes(b"rubbish")
    assert DepthGauge(queue).measure().incoming == 0


def test_one_can_ask_who_works_there_without_disturbing_anybody(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    assert queue.since("courier") is None
    before = time.time()
    with queue.lock("courier"):
        began = queue.since("courier")
        assert began is not None and before - 1 <= began <= time.time() + 1
        with pytest.raises(Exit):
            queue.lock("courier")
        assert queue.since("courier") == began
        assert queue.since("receiver") is None
    assert queue.since("courier") is None
