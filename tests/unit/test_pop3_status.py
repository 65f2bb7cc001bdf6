"""What pop3d's pages say, of a server that is made up."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from services.pop3d import status
from services.pop3d.actions import Statistics
from services.pop3d.counting import count_end, count_login, make_counters
from services.pop3d.status import Status
from stubmail.counters import Counters

NOW = 1_000_000.0


@dataclass
class FakeServer:
    counters: Counters = field(default_factory=make_counters)
    jobs: int = 2
    draining: bool = False
    sessions: int = 5
    strangers: int = 3
    certificate_expires: float = NOW + 1
    not_reloaded: str = ""


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def wrong(server: FakeServer, loop: asyncio.AbstractEventLoop) -> dict[str, str]:
    answer = Status(server, loop, 0.0, lambda: NOW).pages["/readyz"]()
    checks = json.loads(answer.body)["checks"]
    assert (answer.status == 200) == (set(checks.values()) == {"ok"})
    return {name: text for name, text in checks.items() if text != "ok"}


def test_ready(loop: asyncio.AbstractEventLoop) -> None:
    assert wrong(FakeServer(), loop) == {}


def test_what_is_wrong(loop: asyncio.AbstractEventLoop) -> None:
    server = FakeServer(draining=True, certificate_expires=NOW - 2 * 86_400, not_reloaded="users.toml is gone")
    assert wrong(server, loop) == {
        "running": "the server is draining: it is about to end",
        "certificate": "the certificate expired 2 days ago",
        "configuration": "users.toml is gone",
    }


def test_a_loop_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LOOP_SECONDS", 0.01)
    loop = asyncio.new_event_loop()
    try:
        assert list(wrong(FakeServer(), loop)) == ["loop"]
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def test_metrics(loop: asyncio.AbstractEventLoop) -> None:
    server = FakeServer()
    count_end(server.counters, "idle", Statistics(retrieved=2, retrieved_octets=30), 10, 20)
    count_end(server.counters, "a reason that nobody has named", Statistics(), 0, 0)
    count_login(server.counters, "APOP", None, 0.002)
    count_login(server.counters, "APOP", "IN-USE", 0.5)
    count_login(server.counters, "APOP", "", 0.5)
    text = Status(server, loop, 0.0).metrics().body.decode()
    for line in (
        'stubmail_pop3_sessions_total{end="idle"} 1.0',
        'stubmail_pop3_sessions_total{end="other"} 1.0',
        'stubmail_pop3_messages_total{what="retrieved"} 2.0',
        'stubmail_pop3_logins_refused_total{code="IN-USE"} 1.0',
        'stubmail_pop3_logins_total{mechanism="APOP"} 1.0',
        "stubmail_pop3_open_sessions 5.0",
        "stubmail_pop3_open_strangers 3.0",
        "stubmail_pop3_busy_sessions 2.0",
        "stubmail_pop3_certificate_expires_seconds 1.000001e+06",
    ):
        assert line in text, line
