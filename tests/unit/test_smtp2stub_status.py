"""What the gateway counts and measures, and when it says that it is ready."""

import asyncio
import base64
import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.smtp2stub.counters import REASONS, Counters
from services.smtp2stub.settings import Smtp2stub
from services.smtp2stub.status import Status
from stubmail.errors import PermanentError, TemporaryError
from stubmail.queue import Queue
from tests.support.gateway import BOB, CAROL, MESSAGE, NOW, Clock, Outside, accept, courier, gateway, make_item
from tests.support.gateway import make_queue as make
from tests.support.waiting import eventually

OPTIONS = Smtp2stub(users=Path("unused"), allow_plain_auth=True)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return make(tmp_path)


def status(queue: Queue, counters: Counters | None = None, reserve: int = 0, *, draining: bool = False) -> Status:
    return Status(queue, counters or Counters(), reserve, lambda: draining, Clock(NOW + 100))


def samples(found: Status) -> dict[str, float]:
    """All metrics, as ``name{label=value}``."""
    answer = found.metrics()
    assert answer.status == 200
    families = list(text_string_to_metric_families(answer.body.decode()))
    assert len({family.name for family in families}) == len(families)
    return {
        sample.name + "".join(f" {label}={value}" for label, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def readiness(found: Status) -> tuple[int, dict[str, str]]:
    answer = found.pages["/readyz"]()
    checks: dict[str, str] = json.loads(answer.body)["checks"]
    return answer.status, checks


def test_every_metric_is_there_from_the_start(queue: Queue) -> None:
    found = samples(status(queue))
    for reason in REASONS:
        assert found[f"stubmail_gateway_refusals_total reason={reason}"] == 0
    for route in ("stub", "smarthost", "none"):
        assert found[f"stubmail_gateway_recipients_total outcome=deferred route={route}"] == 0
    assert found["stubmail_gateway_queue_oldest_seconds"] == 0
    assert found["stubmail_gateway_up process=courier"] == 0


def test_the_receiver_counts_what_it_says(tmp_path: Path) -> None:
    with gateway(tmp_path, OPTIONS) as served:
        with served.hello() as client:
            client.submit()
            client.say("MAIL FROM:<eve@alpha.example>")
            client.say("RUBBISH")
            client.say("AUTH PLAIN " + base64.b64encode(b"\0alice\0wrong").decode())
            client.say("AUTH PLAIN " + base64.b64encode(b"\0alice\0wonderland").decode())
            client.say("MAIL FROM:<alice@alpha.example> SIZE=999999999")
        found = samples(status(served.queue, served.acceptance.counters))
    assert found["stubmail_gateway_connections_total outcome=accepted"] == 1
    assert found["stubmail_gateway_messages_total state=accepted"] == 1
    assert found["stubmail_gateway_accepted_bytes_total"] > len(MESSAGE)
    refused = {reason: found[f"stubmail_gateway_refusals_total reason={reason}"] for reason in REASONS}
    assert {reason: number for reason, number in refused.items() if number} == {
        "sender": 1,
        "protocol": 1,
        "login": 1,
        "size": 1,
    }
    assert found["stubmail_gateway_logins_total outcome=refused"] == 1
    assert found["stubmail_gateway_logins_total outcome=accepted"] == 1
    assert found["stubmail_gateway_queue_messages place=incoming"] == 1


def test_the_courier_counts_recipients_by_route_and_outcome(queue: Queue) -> None:
    outside, counters, clock = Outside(), Counters(), Clock()
    outside.fates = {CAROL.domain: "relay", BOB.domain: [TemporaryError("4.4.3", "silence"), "stub"]}
    outside.fates["echo.example"] = PermanentError("5.1.1", "nobody")

    async def story() -> None:
        accept(queue, make_item(1, BOB, CAROL), make_item(2, CAROL))
        async with courier(queue, outside, clock, counters=counters) as running:
            await eventually(lambda: len(queue.messages()) == 1 and running.idle)
            waiting = samples(status(queue, counters))
            assert waiting["stubmail_gateway_queue_messages place=filed"] == 1
            assert waiting["stubmail_gateway_queue_oldest_seconds"] == pytest.approx(100, abs=0.01)
            assert waiting["stubmail_gateway_up process=courier"] == 1
            clock.now += 60
            running.ring()
            await eventually(lambda: not queue.messages() and running.idle)

    asyncio.run(asyncio.wait_for(story(), 30))
    found = samples(status(queue, counters))
    assert found["stubmail_gateway_recipients_total outcome=sent route=smarthost"] == 2
    assert found["stubmail_gateway_recipients_total outcome=deferred route=stub"] == 1
    assert found["stubmail_gateway_recipients_total outcome=sent route=stub"] == 1
    assert found["stubmail_gateway_messages_total state=finished"] == 2
    assert found["stubmail_gateway_delivery_seconds_count route=stub"] == 1
    assert found["stubmail_gateway_delivery_seconds_sum route=stub"] == pytest.approx(60)


def test_both_processes_have_to_run(queue: Queue) -> None:
    with queue.lock("receiver"):
        code, checks = readiness(status(queue))
        assert (code, checks["receiver"]) == (503, "ok")
        assert "no courier works on" in checks["courier"]
        with queue.lock("courier"):
            assert readiness(status(queue))[0] == 200
            assert readiness(status(queue, draining=True))[0] == 503


def test_a_disk_below_its_reserve_is_not_ready(queue: Queue) -> None:
    with queue.lock("receiver"), queue.lock("courier"):
        code, checks = readiness(status(queue, reserve=2**62))
    assert code == 503
    assert "no mail is accepted" in checks["spool"]


def test_a_spool_that_is_away_is_said_and_leaves_the_counters(tmp_path: Path) -> None:
    queue = make(tmp_path / "spool")
    queue.root.rename(tmp_path / "away")
    code, checks = readiness(status(queue))
    assert code == 503
    assert "No such file" in checks["spool"]
    assert "stubmail_gateway_messages_total state=accepted" in samples(status(queue))


def test_a_reserve_is_kept(tmp_path: Path) -> None:
    with gateway(tmp_path, OPTIONS) as served, served.hello() as client:
        served.acceptance.intake._reserve = 2**62
        assert client.say("MAIL FROM:<alice@alpha.example>") == "452 4.3.1 there is no room for mail now"
        served.acceptance.intake._reserve = 0
        assert client.submit().startswith("250")
        assert served.acceptance.counters["refused storage"] == 1
