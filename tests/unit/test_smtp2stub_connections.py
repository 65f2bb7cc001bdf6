"""Connections to the smarthost that are used again, given up politely, and not trusted to be alive."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from services.smtp2stub import connections as module
from services.smtp2stub.connections import IDLE_SECONDS, Connections
from services.smtp2stub.relay import Smarthost, relay
from stubmail.errors import StubmailError
from stubmail.queue import State
from tests.support.gateway import BOB, MESSAGE, Clock, make_item
from tests.support.smarthost import FakeSmarthost, serving
from tests.support.waiting import wait_until


@pytest.fixture
def server() -> Iterator[FakeSmarthost]:
    with serving(FakeSmarthost()) as found:
        yield found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def connections(server: FakeSmarthost, clock: Clock) -> Iterator[Connections]:
    found = Connections(Smarthost("127.0.0.1", server.port, "none", "gate.example").connect, clock)
    yield found
    found.close_idle(every=True)


def send(connections: Connections, *recipients: str) -> State:
    [outcome] = relay(connections, make_item(1), [BOB], MESSAGE)
    return outcome.state


def count(server: FakeSmarthost, command: str) -> int:
    return sum(line.upper().startswith(command) for line in server.commands)


def test_the_next_message_takes_the_same_connection(server: FakeSmarthost, connections: Connections) -> None:
    for _ in range(3):
        assert send(connections) is State.DONE
    assert len(server.messages) == 3
    assert (count(server, "(CONNECT)"), count(server, "EHLO"), count(server, "QUIT")) == (1, 1, 0)


def test_an_idle_connection_ends_politely(server: FakeSmarthost, connections: Connections, clock: Clock) -> None:
    send(connections)
    clock.now += IDLE_SECONDS - 1
    connections.close_idle()
    assert count(server, "QUIT") == 0
    clock.now += 1
    connections.close_idle()
    wait_until(lambda: count(server, "QUIT") == 1)
    assert send(connections) is State.DONE
    assert count(server, "(CONNECT)") == 2


@pytest.mark.parametrize("answer", ["", "421 4.4.2 idle for too long"])
def test_a_connection_that_the_smarthost_has_ended_is_made_anew(
    server: FakeSmarthost, connections: Connections, answer: str
) -> None:
    send(connections)
    server.reply = lambda line: answer if line.upper() == "RSET" else None
    assert send(connections) is State.DONE
    assert (len(server.messages), count(server, "(CONNECT)")) == (2, 2)


def test_a_connection_that_broke_off_is_not_used_again(server: FakeSmarthost, connections: Connections) -> None:
    server.break_after = 10
    assert send(connections) is State.WAITING
    server.break_after = None
    assert send(connections) is State.DONE
    assert (count(server, "RSET"), count(server, "(CONNECT)")) == (0, 2)


def test_a_refused_message_leaves_nothing_to_the_next(server: FakeSmarthost, connections: Connections) -> None:
    server.reply = lambda line: "550 5.1.1 nobody" if line.upper().startswith("RCPT") else None
    assert send(connections) is State.FAILED
    server.reply = lambda _: None
    assert send(connections) is State.DONE
    assert count(server, "RSET") == 1


def test_a_connection_is_given_up_after_a_while(
    server: FakeSmarthost, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_USES", 2)
    for _ in range(5):
        assert send(connections) is State.DONE
    wait_until(lambda: count(server, "QUIT") == 2)
    assert count(server, "(CONNECT)") == 3


def test_each_thread_has_its_own(server: FakeSmarthost, connections: Connections) -> None:
    together = Barrier(3)

    def work() -> State:
        together.wait(30)
        return send(connections)

    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            works: list[Callable[[], State]] = [work] * 3
            assert set(threads.map(lambda one: one(), works)) == {State.DONE}
    assert len(server.messages) == 9
    assert count(server, "(CONNECT)") <= 3


def test_a_smarthost_that_is_not_there_is_said_so(server: FakeSmarthost, connections: Connections) -> None:
    server.reply = lambda line: "554 5.7.1 blocked" if line == "(connect)" else None
    with pytest.raises(StubmailError):
        connections.take()
    assert send(connections) is State.WAITING
