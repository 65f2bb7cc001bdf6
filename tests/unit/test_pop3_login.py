"""From credentials to a maildrop: who gets in, what a failure costs, and that it costs nobody else."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.pop3d.actions import Login
from services.pop3d.locations import parse_location
from services.pop3d.login import ALARM, PARALLEL, Attempt, Door, Refused, Rules
from services.pop3d.mbox_maildrop import MboxLocation
from stubmail.address import Address
from stubmail.limits import FailureDelays
from stubmail.users import User, Users


class Clock:
    """Sleeps no time: it notes how long it would have been, and waits while ``held``."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.held: asyncio.Event | None = None

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self.held is not None:
            await self.held.wait()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def attempt(
    name: bytes,
    password: bytes,
    network: str = "192.0.2.1",
    gone: Callable[[], bool] = lambda: False,
    identity: bytes = b"",
) -> tuple[Attempt, Login]:
    return Attempt("session", network, network, gone), Login(name, password, identity=identity)


def run(
    tmp_path: Path,
    clock: Clock,
    work: Callable[[Door], Coroutine[Any, Any, None]],
    by_user: float = 0.0,
    login_delay: float = 0.0,
) -> None:
    users = Users(
        [
            User(
                "bob",
                Address.parse("bob@beta.example"),
                password="{PLAIN}secr\u00e9t",
                maildrop=f"mbox:{tmp_path / 'bob'}",
            ),
            User("none", password="{PLAIN}x"),
            User("lost", password="{PLAIN}x", maildrop=f"mbox:{tmp_path / 'no' / 'lost'}"),
            User("odd", password="{PLAIN}x", maildrop=f"mbox:{tmp_path / 'odd'}"),
        ]
    )

    async def main() -> None:
        with ThreadPoolExecutor(2) as passwords, ThreadPoolExecutor(2) as mail:
            await work(
                Door(
                    users,
                    Rules(FailureDelays(0.25, 5.0, 30.0), FailureDelays(by_user, 5.0, 30.0), login_delay),
                    passwords,
                    mail,
                    lambda text: parse_location(text).open(),
                    clock.sleep,
                )
            )

    asyncio.run(main())


async def refusal(door: Door, one: tuple[Attempt, Login]) -> Refused:
    with pytest.raises(Refused) as caught:
        await door.login(*one)
    return caught.value


def test_the_right_password_opens_the_maildrop_at_once(tmp_path: Path, clock: Clock) -> None:
    async def work(door: Door) -> None:
        user, maildrop = await door.login(*attempt(b"Bob", "secr\u00e9t".encode()))
        assert user.name == "bob"
        maildrop.close()

    run(tmp_path, clock, work)
    assert clock.slept == []


@pytest.mark.parametrize(
    ("name", "password"),
    [
        (b"bob", b"wrong"),
        (b"nobody", b"wrong"),
        (b"bob", b"secr\xe9t"),
        (b"bob\0", b"x"),
        (b"\xff", b"x"),
        (b"bob", "secr\u00e9t\0".encode()),
    ],
)
def test_everything_else_is_refused_alike_after_a_delay(
    tmp_path: Path, clock: Clock, name: bytes, password: bytes
) -> None:
    async def work(door: Door) -> None:
        refused = await refusal(door, attempt(name, password))
        assert (refused.code, refused.text) == ("AUTH", "Authentication failed")

    run(tmp_path, clock, work)
    assert clock.slept == [0.25]


@pytest.mark.parametrize("identity", [b"odd", b"nobody", b"\xff"])
def test_who_would_act_as_another_is_refused_as_for_a_wrong_password(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, identity: bytes
) -> None:
    async def work(door: Door) -> None:
        refused = await refusal(door, attempt(b"bob", "secr\u00e9t".encode(), identity=identity))
        assert (refused.code, refused.text) == ("AUTH", "Authentication failed")
        user, maildrop = await door.login(*attempt(b"bob", "secr\u00e9t".encode(), identity=b"Bob@beta.example"))
        assert user.name == "bob"
        maildrop.close()

    caplog.set_level(logging.INFO, "pop3d")
    run(tmp_path, clock, work)
    assert clock.slept == [0.25]
    [line] = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert "login=bob " in line
    assert " identity=" in line


def test_delays_grow_for_one_network_and_not_for_another(tmp_path: Path, clock: Clock) -> None:
    async def work(door: Door) -> None:
        for _ in range(4):
            await refusal(door, attempt(b"bob", b"wrong"))
        await refusal(door, attempt(b"bob", b"wrong", "192.0.2.2"))

    run(tmp_path, clock, work)
    assert clock.slept == pytest.approx([0.25, 0.5, 1.0, 2.0, 0.25], rel=0.3)


def test_while_one_network_pays_for_its_failures_another_logs_in(tmp_path: Path, clock: Clock) -> None:
    async def work(door: Door) -> None:
        clock.held = asyncio.Event()
        failing = [asyncio.create_task(refusal(door, attempt(b"bob", b"wrong"))) for _ in range(3 * PARALLEL)]
        _, maildrop = await door.login(*attempt(b"bob", "secr\u00e9t".encode(), "192.0.2.2"))
        maildrop.close()
        assert not any(task.done() for task in failing)
        clock.held.set()
        await asyncio.gather(*failing)

    run(tmp_path, clock, work)


def test_hanging_up_does_not_make_room_for_the_next_guess(tmp_path: Path, clock: Clock) -> None:
    async def work(door: Door) -> None:
        clock.held = asyncio.Event()
        hung_up = False
        failing = [
            asyncio.create_task(refusal(door, attempt(b"bob", b"wrong", gone=lambda: hung_up)))
            for _ in range(3 * PARALLEL)
        ]
        while len(clock.slept) < PARALLEL:
            await asyncio.to_thread(int)
        hung_up = True
        assert not any(task.done() for task in failing)
        clock.held.set()
        await asyncio.gather(*failing)

    run(tmp_path, clock, work)
    assert len(clock.slept) == PARALLEL


def test_what_waits_for_its_turn_is_bounded(tmp_path: Path, clock: Clock) -> None:
    async def work(door: Door) -> None:
        clock.held = asyncio.Event()

        failing = [asyncio.create_task(refusal(door, attempt(b"bob", b"wrong"))) for _ in range(100)]
        done, _ = await asyncio.wait(failing, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().code for task in done} == {"SYS/TEMP"}
        clock.held.set()
        assert sum(refused.code == "AUTH" for refused in await asyncio.gather(*failing)) == 72

    run(tmp_path, clock, work)


def test_a_maildrop_in_use_is_tried_for_a_moment(tmp_path: Path, clock: Clock) -> None:
    held = MboxLocation(tmp_path / "bob").open()

    async def work(door: Door) -> None:
        refused = await refusal(door, attempt(b"bob", "secr\u00e9t".encode()))
        assert refused.code == "IN-USE"
        held.close()
        _, maildrop = await door.login(*attempt(b"bob", "secr\u00e9t".encode()))
        maildrop.close()

    run(tmp_path, clock, work)
    assert 0 < sum(clock.slept) <= 1


@pytest.mark.parametrize(("name", "code"), [(b"none", "SYS/PERM"), (b"lost", "SYS/PERM"), (b"odd", "SYS/PERM")])
def test_a_maildrop_that_cannot_be_opened_is_the_servers_fault(
    tmp_path: Path, clock: Clock, name: bytes, code: str
) -> None:
    (tmp_path / "odd").write_bytes(b"no mbox")

    async def work(door: Door) -> None:
        refused = await refusal(door, attempt(name, b"x"))
        assert refused.code == code
        assert str(tmp_path) not in refused.text

    run(tmp_path, clock, work)


def test_guesses_from_everywhere_cost_by_the_name_too_and_the_right_password_never_waits(
    tmp_path: Path, clock: Clock
) -> None:
    async def work(door: Door) -> None:
        for number in range(4):
            await refusal(door, attempt(b"bob@beta.example" if number % 2 else b"Bob", b"wrong", f"192.0.2.{number}"))
        _, maildrop = await door.login(*attempt(b"bob", "secr\u00e9t".encode(), "192.0.2.9"))
        maildrop.close()

    run(tmp_path, clock, work, by_user=0.5)
    assert clock.slept == pytest.approx([0.5, 1.0, 2.0, 4.0], rel=0.3)


def test_an_attack_is_logged_once_for_its_network_and_once_for_its_name(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(door: Door) -> None:
        for _ in range(2 * ALARM):
            await refusal(door, attempt(b"bob", b"guess"))

    run(tmp_path, clock, work, by_user=0.5)
    attacks = [record.getMessage() for record in caplog.records if "attacked" in record.getMessage()]
    assert [line.partition("by=")[2].split()[0] for line in attacks] == ["address", "login"]
    assert "address=192.0.2.1 login=bob" in attacks[0]
    assert "guess" not in caplog.text


def test_a_user_waits_between_logins_where_that_is_wanted(tmp_path: Path, clock: Clock) -> None:
    async def work(door: Door) -> None:
        _, maildrop = await door.login(*attempt(b"bob", "secr\u00e9t".encode()))
        maildrop.close()
        assert (await refusal(door, attempt(b"bob", "secr\u00e9t".encode()))).code == "LOGIN-DELAY"
        assert (await refusal(door, attempt(b"bob", b"wrong"))).code == "AUTH", "nobody else is told"
        assert (await refusal(door, attempt(b"odd", b"x"))).code == "SYS/PERM", "another user does not wait"
        assert (await refusal(door, attempt(b"odd", b"x"))).code == "SYS/PERM", "nor one who did not get in"

    (tmp_path / "odd").write_bytes(b"no mbox")
    run(tmp_path, clock, work, login_delay=300)
