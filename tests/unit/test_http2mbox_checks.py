"""Checks over real UDP on loopback: only the authentic answer of the one that was asked counts."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.http2mbox.checks import Checks
from stubmail.cookies import Cookie
from stubmail.datagram import Check, MacKey, Unknown, Waiting, unknown_to_wire, waiting_to_wire
from tests.support.ports import need_ipv6

COOKIE = Cookie(bytes(range(16)), bytes(range(32)))
PATIENCE = 0.05


Answerer = Callable[[Check], list[bytes]]


class Notifier(asyncio.DatagramProtocol):
    """Answers every check with the datagrams that ``answer`` makes of it."""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer
        self.checks: list[Check] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        check = Check.from_wire(data)
        assert check.authentic(MacKey(COOKIE.key))
        assert check.cookie == COOKIE.id
        self.checks.append(check)
        for datagram in self.answer(check):
            self.transport.sendto(datagram, addr)


@asynccontextmanager
async def network(
    answer: Answerer, patience: float = PATIENCE
) -> AsyncIterator[tuple[Notifier, tuple[str, int], Checks]]:
    """A notifier's protocol and place, and checks that ask."""
    loop = asyncio.get_running_loop()
    transport, notifier = await loop.create_datagram_endpoint(lambda: Notifier(answer), local_addr=("127.0.0.1", 0))
    checks = Checks(patience)
    await checks.open()
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
    try:
        yield notifier, transport.get_extra_info("sockname"), checks
    finally:
        checks.close()
        transport.close()
        await asyncio.sleep(0)


async def ask(checks: Checks, *places: tuple[str, int]) -> Waiting | Unknown | None:
    """Ask, and return the answer alone."""
    found = await checks.ask(places, COOKIE)
    assert found is None or found[0] in places
    return found[1] if found else None


def honest(check: Check) -> list[bytes]:
    return [waiting_to_wire(check.nonce, 3, 17, MacKey(COOKIE.key))]


def silent(check: Check) -> list[bytes]:
    return []


def test_an_answer() -> None:
    async def run() -> None:
        async with network(honest, 5.0) as (notifier, place, checks):
            assert await ask(checks, place) == Waiting(3, 17)
            assert len(notifier.checks) == 1

    asyncio.run(run())


def test_an_unknown_cookie() -> None:
    async def run() -> None:
        async with network(lambda check: [unknown_to_wire(check.nonce)], 5.0) as (_, place, checks):
            assert await ask(checks, place) == Unknown()

    asyncio.run(run())


def test_silence_is_asked_once_more_with_another_nonce() -> None:
    async def run() -> None:
        async with network(silent) as (notifier, place, checks):
            assert await ask(checks, place) is None
            assert len({check.nonce for check in notifier.checks}) == 2

    asyncio.run(run())


def test_the_answer_to_the_first_may_come_after_the_second_was_sent() -> None:
    async def run() -> None:
        first = []

        def late(check: Check) -> list[bytes]:
            first.append(check)
            return honest(first[0]) if len(first) == 2 else []

        async with network(late) as (_, place, checks):
            assert await ask(checks, place) == Waiting(3, 17)

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        lambda check: [waiting_to_wire(check.nonce, 0, 0, MacKey(bytes(32)))],  # forged: another key
        lambda check: [waiting_to_wire(bytes(16), 0, 0, MacKey(COOKIE.key))],  # replayed: another nonce
        lambda check: [unknown_to_wire(bytes(16))],
        lambda check: [waiting_to_wire(check.nonce, 0, 0, MacKey(COOKIE.key)) + b"x"],
        lambda check: [waiting_to_wire(check.nonce, 0, 0, MacKey(COOKIE.key))[:-1]],
        lambda check: [b"", b"STUB", b"x" * 60_000],
        lambda check: [unknown_to_wire(check.nonce) + bytes(44)],
    ],
)
def test_what_is_not_authentic_is_like_silence(answer: Answerer) -> None:
    async def run() -> None:
        async with network(answer) as (_, place, checks):
            assert await ask(checks, place) is None
            assert checks.dropped >= 2

    asyncio.run(run())


def test_a_forgery_does_not_keep_the_true_answer_out() -> None:
    async def run() -> None:
        def both(check: Check) -> list[bytes]:
            return [waiting_to_wire(check.nonce, 0, 0, MacKey(bytes(32))), *honest(check), *honest(check)]

        async with network(both, 5.0) as (_, place, checks):
            assert await ask(checks, place) == Waiting(3, 17)

    asyncio.run(run())


def test_an_authentic_answer_from_elsewhere_does_not_count() -> None:
    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            asked = []

            class Relay(Notifier):
                def datagram_received(self, data: bytes, addr: Any) -> None:
                    asked.append(addr)
                    check = Check.from_wire(data)
                    other.sendto(waiting_to_wire(check.nonce, 0, 0, MacKey(COOKIE.key)), ("127.0.0.1", addr[1]))

            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(lambda: Relay(silent), local_addr=("127.0.0.1", 0))
            checks = Checks(PATIENCE)
            await checks.open()
            assert await ask(checks, transport.get_extra_info("sockname")) is None
            assert len(asked) == 2
            checks.close()
            transport.close()
            await asyncio.sleep(0)

    asyncio.run(run())


def test_nobody_there_and_nowhere_to_send() -> None:
    async def run() -> None:
        async with network(silent) as (_, place, checks):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("127.0.0.1", 0))
                free = probe.getsockname()
            assert await ask(checks, free) is None
            checks.close()
            assert await ask(checks, place) is None

    asyncio.run(run())


def test_over_ipv6_too() -> None:
    need_ipv6()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Notifier(honest), local_addr=("::1", 0))
        checks = Checks(5.0)
        await checks.open()
        port = transport.get_extra_info("sockname")[1]
        assert await ask(checks, ("0:0:0:0:0:0:0:1", port)) == Waiting(3, 17)
        checks.close()
        transport.close()
        await asyncio.sleep(0)

    asyncio.run(run())


def test_five_hundred_questions_at_once_take_one_wait() -> None:
    async def run() -> None:
        async with network(honest, 5.0) as (notifier, place, checks):
            answers = await asyncio.gather(*(ask(checks, place) for _ in range(500)))
            assert answers == [Waiting(3, 17)] * 500
            assert len(notifier.checks) < 1000

    asyncio.run(run())


def test_when_one_is_silent_the_next_target_is_asked_and_named() -> None:
    async def run() -> None:
        async with network(silent) as (mute, first, checks), network(honest) as (talker, second, _):
            assert await checks.ask([first, second], COOKIE) == (second, Waiting(3, 17))
            assert (len(mute.checks), len(talker.checks)) == (1, 1)

    asyncio.run(run())


def test_an_answer_of_one_target_to_the_others_question_does_not_count() -> None:
    async def run() -> None:
        asked: list[Check] = []

        def replay(check: Check) -> list[bytes]:
            asked.append(check)
            return [waiting_to_wire(asked[0].nonce, 0, 0, MacKey(COOKIE.key))]

        def ignore(check: Check) -> list[bytes]:
            asked.append(check)
            return []

        async with network(ignore) as (_, first, checks), network(replay) as (_, second, _):
            assert await checks.ask([first, second], COOKIE) is None
            assert checks.dropped == 1

    asyncio.run(run())


def test_nowhere_to_ask_is_silence() -> None:
    async def run() -> None:
        async with network(honest) as (_, _, checks):
            assert await checks.ask([], COOKIE) is None

    asyncio.run(run())
