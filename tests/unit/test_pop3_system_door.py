"""Logins of users of the machine, up to the process that asks PAM: what it is asked, and what failures count for."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.pop3d.actions import Login as Password
from services.pop3d.login import ALARM, Attempt, Refused, Rules
from services.pop3d.system.calls import KNOCK, MAX_CALL, Answer, Login
from services.pop3d.system.front import MailSession, SystemDoor
from stubmail.counters import Counters
from stubmail.limits import FailureDelays

SECRET = "open sesame"


class Keeper:
    """Stands for the keeper and the process of each login, which knows alice's password; ``heard`` is who it was."""

    def __init__(self) -> None:
        self.front, self._end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.heard: list[str] = []
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def close(self) -> None:
        self.front.close()
        self._thread.join(20)
        self._end.close()

    def _answer(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._end, len(KNOCK), 1)
            if not data:
                return
            with socket.socket(fileno=descriptors[0]) as call:
                login = Login.from_wire(call.recv(MAX_CALL))
                self.heard.append(login.name)
                right = (login.name, login.password) == ("alice", SECRET)
                call.send((Answer(user="alice") if right else Answer(code="AUTH")).to_wire())


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper()
    yield made
    made.close()


def run(
    keeper: Keeper, work: Callable[[SystemDoor], Coroutine[Any, Any, None]], alarm: Callable[[], None] = lambda: None
) -> None:
    rules = Rules(FailureDelays(0.0, 0.0, 3600.0), FailureDelays(0.0, 0.0, 3600.0))
    domains = frozenset({"alpha.example", "xn--mnchen-3ya.example"})

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:

            def session(call: socket.socket, user: str) -> MailSession:
                return MailSession(1.0, Counters({}), call, user)

            await work(SystemDoor(rules, pool, pool, keeper.front, session, alarm, domains))

    asyncio.run(main())


async def log_in(
    door: SystemDoor, name: bytes, identity: bytes = b"", password: str = SECRET, network: str = "192.0.2.1"
) -> str:
    """Return who is let in, or why nobody is."""
    attempt = Attempt("session", network, network, lambda: False)
    try:
        session = await door.login(attempt, Password(name, password.encode(), "PLAIN", identity))
    except Refused as refused:
        return f"{refused.code} {refused.text}"
    assert isinstance(session, MailSession)
    session.close()
    return session.user


@pytest.mark.parametrize("name", ["alice", "alice@alpha.example", "alice@ALPHA.example.", "alice@m\u00fcnchen.example"])
def test_pam_sees_the_short_name_alone(keeper: Keeper, name: str) -> None:
    async def work(door: SystemDoor) -> None:
        assert await log_in(door, name.encode()) == "alice"

    run(keeper, work)
    assert keeper.heard == ["alice"]


@pytest.mark.parametrize("name", [b"alice@beta.example", b"Alice", b"@alpha.example", b"alice@", b"alice@\xff"])
def test_other_names_are_asked_for_as_they_came(keeper: Keeper, name: bytes) -> None:
    async def work(door: SystemDoor) -> None:
        assert await log_in(door, name) == "AUTH Authentication failed"

    run(keeper, work)
    assert keeper.heard == [name.decode("latin-1")]


@pytest.mark.parametrize("name", [b"alice", b"alice@alpha.example"])
def test_nobody_acts_as_somebody_else_and_pam_refuses(keeper: Keeper, name: bytes) -> None:
    async def work(door: SystemDoor) -> None:
        for identity in (b"bob", b"bob@alpha.example", b"alice@beta.example", b"root", b"\xff"):
            assert await log_in(door, name, identity) == "AUTH Authentication failed"
        for identity in (b"alice", b"alice@alpha.example", b"alice@Alpha.Example"):
            assert await log_in(door, name, identity) == "alice"

    run(keeper, work)
    assert keeper.heard == ["alice"] * 8, "it takes its time for all of them"


def test_failures_count_for_the_user_by_whatever_name(keeper: Keeper) -> None:
    alarms: list[int] = []
    names = [b"alice", b"alice@alpha.example", "alice@m\u00fcnchen.example".encode()]

    async def work(door: SystemDoor) -> None:
        for number in range(ALARM + 2):
            await log_in(door, names[number % len(names)], password="guess", network=f"192.0.2.{number}")

    run(keeper, work, lambda: alarms.append(1))
    assert alarms == [1]
