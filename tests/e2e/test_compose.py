"""The compose network as a stranger uses it: outside clients only. The tests run in order and build on each other."""

import json
import subprocess
from collections import Counter

import pytest

from tests.e2e.conftest import Compose, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ALICE, BOB = "alice@alpha.example", "bob@beta.example"


def subjects(compose: Compose, address: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for message in compose.maildrop(address):
        head = message.partition("\r\n\r\n")[0]
        found.update(line.removeprefix("Subject: ") for line in head.split("\r\n") if line.startswith("Subject: "))
    return found


def waiting(compose: Compose) -> list[dict[str, str]]:
    """Alice's posts that nobody has fetched yet."""
    listed = compose("exec", "-T", "alpha-gateway", "stubmail", "outbox", "list", "--json", "--state", "waiting")
    return list(json.loads(listed))


def heartbeat(compose: Compose) -> str:
    """When bob's puller last began a round."""
    return compose("exec", "-T", "beta-puller", "stat", "--format", "%y", "state/heartbeat")


def test_all_services_are_healthy(compose: Compose) -> None:
    def services() -> list[dict[str, str]]:
        return [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]

    assert len(services()) == 12
    until("all are healthy", lambda: all(service["Health"] == "healthy" for service in services()))


def test_the_name_server_has_the_three_records(compose: Compose) -> None:
    def dig(name: str, kind: str) -> str:
        return compose.client("dig", "@dns", "+short", name, kind).strip()

    assert dig("_stub._udp.alpha.example", "SRV") == "10 5 2225 post.alpha.example."
    assert dig("_pks._tcp.alpha.example", "SRV") == "10 5 11371 keys.alpha.example."
    assert dig("_post._tcp.alpha.example", "TXT") == '"10 5 8080 post.alpha.example. post_manager"'
    assert dig("_post._tcp.legacy.example", "TXT") == ""


def test_plain_gpg_finds_and_receives_a_key(compose: Compose) -> None:
    script = (
        "mkdir -m 700 /tmp/gnupg && gpg --batch --keyserver hkp://keys.beta.example --with-colons"
        " --search-keys bob@beta.example && fpr=$(gpg --batch --keyserver hkp://keys.beta.example --with-colons"
        " --search-keys bob@beta.example | awk -F: '/^pub/ {print $2}')"
        " && gpg --batch --keyserver hkp://keys.beta.example --recv-keys $fpr && gpg --list-keys bob@beta.example"
    )
    assert "bob@beta.example" in compose.client("sh", "-c", script)


def test_the_first_message_waits_until_its_recipient_has_written_back(compose: Compose) -> None:
    assert compose.submit(ALICE, BOB, "first").returncode == 0
    until("it is stored", lambda: len(waiting(compose)) == 1)
    for _ in range(2):
        begun = heartbeat(compose)
        until("a round of bob's puller", lambda: heartbeat(compose) != begun)  # noqa: B023
    assert subjects(compose, BOB) == {}
    assert compose.submit(BOB, ALICE, "reply").returncode == 0
    until("both are delivered", lambda: subjects(compose, BOB)["first"] == subjects(compose, ALICE)["reply"] == 1)


def test_plain_gpg_opens_a_post_copied_from_the_store(compose: Compose) -> None:
    until("what came is acknowledged", lambda: waiting(compose) == [])
    compose("stop", "beta-puller")
    assert compose.submit(ALICE, BOB, "copied", "The body of the copied post.").returncode == 0
    until("it is stored", lambda: len(waiting(compose)) == 1)
    post_id = waiting(compose)[0]["id"]
    post = subprocess.run(
        ["docker", "compose", "exec", "-T", "alpha-store", "post_manager", "export", post_id],
        capture_output=True,
        timeout=60,
    )
    opened = subprocess.run(
        ["docker", "compose", "exec", "-T", "beta-gateway", "gpg", "--homedir", "keys/bob", "--batch", "--decrypt"],
        input=post.stdout,
        capture_output=True,
        timeout=60,
    )
    assert b"The body of the copied post." in opened.stdout
    assert b'Good signature from "Alice <alice@alpha.example>"' in opened.stderr
    assert b"The body" not in post.stdout
    compose("start", "beta-puller")
    until("it is delivered", lambda: subjects(compose, BOB)["copied"] == 1)


def test_mail_for_a_legacy_domain_goes_through_the_smarthost(compose: Compose) -> None:
    assert compose.submit(ALICE, "carol@legacy.example", "to the past").returncode == 0
    until(
        "Postfix has it",
        lambda: "Subject: to the past" in compose("exec", "-T", "legacy", "cat", "/var/mail/legacy/mbox", check=False),
    )


def test_nobody_can_relay_without_a_password(compose: Compose) -> None:
    done = subprocess.run(
        ["swaks", "--server", "127.0.0.1:1025", "--from", ALICE, "--to", BOB, "--timeout", "20"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "530 5.7.0" in done.stdout


@pytest.mark.parametrize("service", ["alpha-gateway", "alpha-store", "beta-puller", "beta-pop3", "alpha-keys", "dns"])
def test_killing_a_service_in_mid_flow_loses_and_duplicates_nothing(compose: Compose, service: str) -> None:
    sent = [f"{service} {number}" for number in range(12)]
    accepted = []
    for number, subject in enumerate(sent):
        if number == 4:
            compose("kill", service)
        if number == 8:
            compose("up", "--wait", "--no-recreate", service)
        if compose.submit(ALICE, BOB, subject).returncode == 0:
            accepted.append(subject)
    assert accepted if service == "alpha-gateway" else accepted == sent

    def arrived() -> bool:
        found = subjects(compose, BOB)
        return all(found[subject] for subject in accepted)

    until("every accepted message is there", arrived, 120)
    found = subjects(compose, BOB)
    assert {subject: found[subject] for subject in sent if found[subject] > 1} == {}


def test_a_second_up_keeps_mail_and_keys(compose: Compose) -> None:
    def keys() -> str:
        return compose("exec", "-T", "alpha-gateway", "gpg", "--homedir", "keys/alice", "--with-colons", "--list-keys")

    def fingerprints() -> list[str]:
        return sorted(line.split(":")[9] for line in keys().splitlines() if line.startswith("fpr:"))

    mail, before = Counter[str](), fingerprints()

    def read_twice_alike() -> bool:
        nonlocal mail
        last, mail = mail, subjects(compose, BOB)
        return bool(mail) and mail == last

    until("the maildrop is at rest", read_twice_alike)
    compose("down")
    compose("up", "--wait", timeout=300)
    until("the mail is as it was", lambda: subjects(compose, BOB) == mail)
    assert fingerprints() == before


def test_down_leaves_nothing(compose: Compose) -> None:
    compose("--profile", "client", "down", "--volumes")
    for kind in ("volume", "network"):
        listed = ["docker", kind, "ls", "--quiet", "--filter", "label=com.docker.compose.project=stubmail"]
        assert subprocess.run(listed, capture_output=True, text=True, timeout=60).stdout == ""
