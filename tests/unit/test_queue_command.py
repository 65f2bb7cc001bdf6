"""`stubmail queue`: what is shown of the spool, and orders that a courier obeys."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from commands import queue as command
from stubmail.errors import PermanentError, TemporaryError
from stubmail.queue import Bell, Order, Queue
from tests.support.gateway import BOB, CAROL, Clock, Outside, accept, courier, make_item, make_queue
from tests.support.waiting import wait_until

FIRST, SECOND = make_item(1).id, make_item(2).id


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    queue = make_queue(tmp_path / "spool")
    accept(queue, make_item(1, BOB, CAROL))
    accept(queue, make_item(2))
    return queue


@contextmanager
def courier_at_work(queue: Queue) -> Iterator[Outside]:
    """A courier in a thread, to which beta.example is silent and legacy.example refuses."""
    world = Outside()
    world.fates = {BOB.domain: TemporaryError("4.4.3", "DNS is silent"), CAROL.domain: PermanentError("5.1.1", "no")}
    ready, loops, stops = threading.Event(), list[asyncio.AbstractEventLoop](), list[asyncio.Event]()

    async def work() -> None:
        bell = Bell(queue.bell_path)
        stopped = asyncio.Event()
        try:
            async with courier(queue, world, Clock()) as running:

                def heard() -> None:
                    bell.clear()
                    running.ring()

                asyncio.get_running_loop().add_reader(bell, heard)
                loops.append(asyncio.get_running_loop())
                stops.append(stopped)
                ready.set()
                await stopped.wait()
                asyncio.get_running_loop().remove_reader(bell)
        finally:
            bell.close()

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert ready.wait(30)
    try:
        yield world
    finally:
        loops[0].call_soon_threadsafe(stops[0].set)
        thread.join(20)


def call(queue: Queue, *arguments: str) -> Result:
    return CliRunner().invoke(command.queue, [*arguments, "--spool", str(queue.root)])


def test_list_shows_what_waits_and_why(queue: Queue) -> None:
    with courier_at_work(queue):
        wait_until(lambda: all(queue.progress(stored.item).next_try for stored in queue.messages()))
        done = call(queue, "list")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].startswith(f"{FIRST}  waiting   2027-01-15T08:00:00Z")
    assert lines[1] == "    bob@beta.example  4.4.3 DNS is silent"
    assert lines[2].startswith(SECOND)
    assert "carol" not in done.output


def test_list_and_show_as_json(queue: Queue) -> None:
    listed = json.loads(call(queue, "list", "--json").output)
    assert [(message["id"], message["state"]) for message in listed] == [(FIRST, "new"), (SECOND, "new")]
    shown = json.loads(call(queue, "show", FIRST.lower(), "--json", "--header").output)
    assert [recipient["address"] for recipient in shown["recipients"]] == ["bob@beta.example", "carol@legacy.example"]
    assert shown["header"].endswith("Subject: hello")
    text = call(queue, "show", FIRST, "--header").output
    assert "recipient carol@legacy.example  waiting" in text
    assert "The text" not in text


def test_show_tells_what_the_sender_said_of_notices(tmp_path: Path) -> None:
    queue = make_queue(tmp_path / "spool")
    item = make_item(1, BOB, CAROL)
    bob = replace(item.recipients[0], notify="SUCCESS,DELAY", original="rfc822;Bob+2Bx@beta.example")
    accept(queue, replace(item, recipients=(bob, item.recipients[1]), ret="HDRS", envid="QQ314159"))
    text = call(queue, "show", item.id).output
    assert "\nret       HDRS\nenvid     QQ314159\n" in text
    assert text.count("\n    notify SUCCESS,DELAY\n    orcpt  rfc822;Bob+2Bx@beta.example\n") == 1
    assert text.count("notify") == 1
    shown = json.loads(call(queue, "show", item.id, "--json").output)
    assert (shown["ret"], shown["envid"]) == ("HDRS", "QQ314159")
    assert [recipient["notify"] for recipient in shown["recipients"]] == ["SUCCESS,DELAY", ""]
    assert "envid" not in call(make_and_accept(tmp_path / "other"), "show", FIRST).output


def make_and_accept(root: Path) -> Queue:
    """A queue with a message whose sender said nothing of notices."""
    queue = make_queue(root)
    accept(queue, make_item(1))
    return queue


def test_orders_are_obeyed(queue: Queue) -> None:
    with courier_at_work(queue) as world:
        wait_until(lambda: len(queue.filed()) == 2)
        assert call(queue, "hold", SECOND).output == f"{SECOND}  held\n"
        wait_until(lambda: json.loads(call(queue, "show", SECOND, "--json").output)["state"] == "held")
        assert call(queue, "drop", FIRST).output == f"{FIRST}  dropped\n"
        wait_until(lambda: queue.filed() == [SECOND])
        del world.fates[BOB.domain]
        assert call(queue, "retry", "--all").output == f"{SECOND}  is tried again\n"
        wait_until(lambda: not queue.messages())
        assert len(world.stored) == 1
    assert call(queue, "list").output == ""


def test_orders_as_json_say_what_has_been_done(queue: Queue) -> None:
    assert json.loads(call(queue, "retry", FIRST, "--json").output) == {FIRST: False}
    assert json.loads(call(queue, "hold", SECOND.lower(), SECOND, "--json").output) == {SECOND: True}
    with courier_at_work(queue):
        assert json.loads(call(queue, "drop", "--all", "--json").output) == {FIRST: True, SECOND: True}
    assert json.loads(call(queue, "list", "--json").output) == []


def test_list_by_state_and_what_is_damaged(queue: Queue) -> None:
    call(queue, "hold", SECOND)
    assert [each["id"] for each in json.loads(call(queue, "list", "--state", "held", "--json").output)] == [SECOND]
    assert call(queue, "list", "--state", "waiting").output == ""
    queue.set_aside(FIRST)
    done = CliRunner().invoke(command.queue, ["list", "--spool", str(queue.root)])
    assert f"{queue.incoming / FIRST}.damaged is damaged" in done.output
    assert done.exit_code == 0


def test_orders_for_messages_that_are_gone_go_too(queue: Queue) -> None:
    orders: list[tuple[str, Order]] = [(FIRST, "hold"), (make_item(9).id, "drop"), (make_item(8).id, "hold")]
    for queue_id, order in orders:
        queue.order(queue_id, order)
    queue.clean()
    assert queue.orders() == [(FIRST, "hold")]


def test_without_a_courier_orders_are_noted(queue: Queue) -> None:
    assert "noted" in call(queue, "drop", FIRST).output
    assert call(queue, "hold", SECOND).output == f"{SECOND}  held\n"
    with courier_at_work(queue) as world:
        wait_until(lambda: [stored.item.id for stored in queue.messages()] == [SECOND])
        assert not world.stored


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["show", "NOSUCH"], 65, "no message NOSUCH"),
        (["drop"], 64, "--all"),
        (["drop", "--all", FIRST], 64, "--all"),
        (["retry", "NOSUCH"], 65, "no message"),
    ],
)
def test_mistakes_are_named(queue: Queue, arguments: list[str], status: int, words: str) -> None:
    done = call(queue, *arguments)
    assert done.exit_code == status
    assert words in done.output
    assert len(queue.messages()) == 2
    assert queue.orders() == []


def test_the_spool_is_found_in_the_configuration(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "stub.conf"
    config.write_text(f'[smtp2stub]\nspool = "{queue.root}"\nusers = "x"\n')
    runner = CliRunner()
    assert FIRST in runner.invoke(command.queue, ["list", "--config", str(config)]).output
    monkeypatch.setenv("STUBMAIL_SMTP2STUB_SPOOL", str(tmp_path / "elsewhere"))
    done = runner.invoke(command.queue, ["list", "--config", str(config)])
    assert (done.exit_code, "not a gateway's spool" in done.output) == (66, True)
