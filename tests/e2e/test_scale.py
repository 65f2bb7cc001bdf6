"""alpha's store as three replicas on one PostgreSQL: what ends in the middle of the traffic, nobody's mail notices.

The tests run in order; mail flows both ways from the first disturbance to the last. Bob's to alice lies in beta's
store, which is left alone.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.conftest import ALL_FILES, Compose, network, until
from tests.e2e.mailing import Stream, Submitter, arrived, compose_message, read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ALICE, BOB = "alice@alpha.example", "bob@beta.example"
REPLICAS = ("alpha-store-1", "alpha-store-2", "alpha-store-3")
EVENTS = ("stored", "fetched")  # in a replica's log
JAR = "state/bob@beta.example/cookies.json"  # of his puller, which writes it after what it has fetched
ENOUGH = 10  # messages that have to arrive after a disturbance

# Bob's cookie, tried at every notifier (protocol.md §6).
CHECK_ALL = """
import secrets, socket, sys
from pathlib import Path
from stubmail.cookies import CookieJar
from stubmail.datagram import answer_from_wire, check_to_wire
from stubmail.discovery import Resolver
jar = CookieJar(Path(sys.argv[2]))
jar.refresh()
cookie = jar.get("http://post.alpha.example:8080/post_manager")
resolver = Resolver((sys.argv[1], 53), allow_private=True)
for host in sorted(target.host for target in resolver.discover("alpha.example").checks):
    nonce = secrets.token_bytes(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((resolver.addresses(host)[0], 2225))
        client.send(check_to_wire(cookie.id, nonce, cookie.key))
        print(host, type(answer_from_wire(client.recv(1024), nonce, cookie.key)).__name__)
"""


@dataclass(frozen=True)
class Traffic:
    """Two streams, and how many messages were in the maildrops before."""

    to_bob: Stream
    to_alice: Stream
    before: Counter[str]


@pytest.fixture(scope="module")
def scaled() -> Iterator[Compose]:
    """Alpha's store as three replicas; alice and bob know each other."""
    with network(*ALL_FILES, log="compose.scale.log") as compose:
        for sender, to in ((ALICE, BOB), (BOB, ALICE)):
            assert compose.submit(sender, to, "hello").returncode == 0
        until("both are delivered", lambda: arrived(compose, ALICE) == arrived(compose, BOB) == 1)
        yield compose


@pytest.fixture(scope="module")
def traffic(scaled: Compose) -> Iterator[Traffic]:
    before = Counter({address: there(scaled, address) for address in (ALICE, BOB)})
    streams = Stream(scaled, ALICE, BOB, seed=1), Stream(scaled, BOB, ALICE, seed=2)
    for stream in streams:
        stream.start()
    yield Traffic(*streams, before)
    for stream in streams:
        stream.stop()


def there(compose: Compose, address: str) -> int:
    """How many messages are in a maildrop that is not empty."""
    found = 0

    def free() -> bool:
        nonlocal found
        found = arrived(compose, address)
        return found > 0

    until("the maildrop is free", free)
    return found


def goes_on(compose: Compose) -> None:
    """Wait for mail that was not there yet."""
    before = there(compose, BOB)
    until("mail goes on", lambda: arrived(compose, BOB) >= before + ENOUGH, 90)


def logged(compose: Compose, service: str) -> str:
    return compose("logs", "--no-color", "--no-log-prefix", service)


def notifiers(compose: Compose, check: bool = True) -> list[str]:
    resolver = compose("exec", "-T", "beta-puller", "printenv", "STUBMAIL_DNS_RESOLVER").partition(":")[0]
    return compose("exec", "-T", "beta-puller", "python3", "-c", CHECK_ALL, resolver, JAR, check=check).splitlines()


def peak_memory(compose: Compose) -> int:
    """The most octets that the balancer ever had in memory."""
    status = compose("exec", "-T", "alpha-balancer", "cat", "/proc/1/status")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def outbox(compose: Compose) -> list[dict[str, object]]:
    listed = compose("exec", "-T", "alpha-gateway", "stubmail", "outbox", "list", "--json")
    return list(json.loads(listed))


def test_all_services_are_healthy(scaled: Compose) -> None:
    def services() -> list[dict[str, str]]:
        return [json.loads(line) for line in scaled("ps", "--format", "json").splitlines()]

    names = {service["Service"] for service in services()}
    assert {*REPLICAS, "alpha-balancer", "alpha-db"} < names
    assert "alpha-store" not in names
    until("all are healthy", lambda: all(service["Health"] == "healthy" for service in services()))


def test_every_notifier_answers_the_same_cookie(scaled: Compose) -> None:
    jar = "exec", "-T", "beta-puller", "cat", JAR
    until("bob's puller has kept its cookie", lambda: "post.alpha.example" in scaled(*jar, check=False))
    assert notifiers(scaled) == [f"check-{number}.alpha.example Waiting" for number in (1, 2, 3)]


def test_stores_see_who_asks_and_believe_only_the_balancer(scaled: Compose) -> None:
    url = "http://post.alpha.example:8080/post_manager"
    script = f"hostname -i; curl --silent --output /dev/null --header 'X-Forwarded-For: 192.0.2.1' --form x=y {url}"
    client = scaled.client("sh", "-c", script).split()[0]

    def refused() -> list[str]:
        return [line for name in REPLICAS for line in logged(scaled, name).splitlines() if " refused " in line]

    until("the refusal is in the log", lambda: any(line.endswith(f"peer={client}") for line in refused()))
    assert not any("peer=192.0.2.1" in line for line in refused())


def test_the_database_is_out_of_reach_for_others(scaled: Compose) -> None:
    names = scaled.client("sh", "-c", "getent hosts alpha-db || echo none")
    assert names.strip() == "none"


def test_a_large_message_crosses_the_balancer_in_constant_memory(scaled: Compose) -> None:
    message = compose_message(ALICE, BOB, "large", 40_000_000, random.Random(3))
    before, peak = there(scaled, BOB), peak_memory(scaled)
    submitter = Submitter(scaled, ALICE)
    submitter.submit(BOB, message)
    submitter.close()
    until("it arrives", lambda: arrived(scaled, BOB) > before, 180)
    assert read(scaled, BOB, before) == [message]
    assert peak_memory(scaled) - peak < 4_000_000


def test_a_killed_replica_is_not_missed(scaled: Compose, traffic: Traffic) -> None:
    scaled("kill", REPLICAS[0])
    goes_on(scaled)
    scaled("start", REPLICAS[0])
    goes_on(scaled)


def test_a_replica_that_is_told_to_end_answers_what_it_has_begun(scaled: Compose, traffic: Traffic) -> None:
    broken = logged(scaled, "alpha-balancer").count("status=502")
    scaled("stop", REPLICAS[1])
    goes_on(scaled)
    assert logged(scaled, "alpha-balancer").count("status=502") == broken
    state = scaled("ps", "--all", "--format", "{{.ExitCode}}", REPLICAS[1])
    assert state.strip() == "0"
    scaled("start", REPLICAS[1])
    goes_on(scaled)


def test_the_database_is_started_again(scaled: Compose, traffic: Traffic) -> None:
    scaled("restart", "alpha-db")
    goes_on(scaled)


def test_the_database_is_killed(scaled: Compose, traffic: Traffic) -> None:
    scaled("kill", "alpha-db")
    until("a replica notices", lambda: "status=503" in logged(scaled, "alpha-balancer"))
    scaled("start", "alpha-db")
    goes_on(scaled)


def test_every_accepted_message_arrived_once_and_as_it_was(scaled: Compose, traffic: Traffic) -> None:
    for address, stream in ((BOB, traffic.to_bob), (ALICE, traffic.to_alice)):
        accepted, before = stream.stop(), traffic.before[address]
        wanted = before + accepted.total()
        until(f"all is there for {address}", lambda: arrived(scaled, address) >= wanted, 120)  # noqa: B023
        assert Counter(read(scaled, address, before)) == accepted


def test_the_outbox_says_fetched_of_every_post(scaled: Compose, traffic: Traffic) -> None:
    # Bob's puller delivers first, and acknowledges then.
    until("all is acknowledged", lambda: all(post["state"] == "fetched" for post in outbox(scaled)))
    assert len(outbox(scaled)) == traffic.before[BOB] + len(traffic.to_bob.accepted)


def test_all_replicas_took_part(scaled: Compose, traffic: Traffic) -> None:
    served = {(name, event): logged(scaled, name).count(f" {event} ") for name in REPLICAS for event in EVENTS}
    assert all(served.values()), served


def test_nothing_was_sent_to_a_second_replica(scaled: Compose, traffic: Traffic) -> None:
    assert not [line for name in REPLICAS for line in logged(scaled, name).splitlines() if "reason=replayed" in line]


def test_notifiers_found_the_database_again(scaled: Compose, traffic: Traffic) -> None:
    until("all answer", lambda: [line.split()[-1] for line in notifiers(scaled, check=False)] == ["Waiting"] * 3)


def test_the_store_finds_no_damage(scaled: Compose, traffic: Traffic) -> None:
    scaled("exec", "-T", REPLICAS[2], "post_manager", "verify")
