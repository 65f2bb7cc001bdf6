"""Logins by SCRAM-SHA-256: with keys alone on our side, and without a password on the wire."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from commands.popcl.mechanisms import Scram
from services.smtp2stub.settings import Smtp2stub
from stubmail.passwords import hash_password, scram_password
from stubmail.scram_users import ScramUsers
from stubmail.users import User, Users
from tests.support.gateway import ALICE, USERS, Client, Gateway, gateway
from tests.support.scram import ScramClient

OPTIONS = Smtp2stub(users=Path("unused"), timeout_seconds=20, trust_loopback=False, allow_plain_auth=True)
PLAIN, KEPT = USERS[0], replace(USERS[0], password=scram_password("wonderland"))
HASHED = replace(USERS[1], password=hash_password("evil"))


@pytest.fixture(params=[PLAIN, KEPT], ids=["plain", "scram"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    with gateway(tmp_path, OPTIONS, users=[request.param]) as found:
        yield found


def answer(client: Client, scram: Scram) -> str:
    """Answer challenges until there are no more; returns the reply that came instead of one."""
    reply = client.say("AUTH SCRAM-SHA-256")
    while reply.startswith("334"):
        reply = client.say(scram.answer(reply[4:].encode()))
    return reply


@pytest.mark.parametrize("name", ["alice", "alice@alpha.example"])
def test_both_sides_prove_that_they_know_the_password(served: Gateway, name: str) -> None:
    with served.hello() as client:
        scram = Scram(name, "wonderland", "client-nonce")
        assert answer(client, scram).startswith("235 2.7.0")
        scram.finish()
        assert client.submit().startswith("250")
    [(item, content)] = served.messages()
    assert item.account == "alice"
    assert b"with ESMTPA id" in content


def test_the_first_message_may_come_with_the_command(served: Gateway) -> None:
    with served.hello() as client:
        scram = Scram("alice", "wonderland", "client-nonce")
        reply = client.say(f"AUTH SCRAM-SHA-256 {scram.answer(b'')}")
        for _ in range(2):
            reply = client.say(scram.answer(reply[4:].encode()))
        assert reply.startswith("235 2.7.0")


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", "wonderland")])
def test_a_wrong_proof_and_an_unknown_name_are_the_same(served: Gateway, name: str, password: str) -> None:
    with served.hello() as client:
        assert answer(client, Scram(name, password, "client-nonce")).startswith("535 5.7.8 the name or the password")
        assert client.say(f"MAIL FROM:<{ALICE}>").startswith("530")


def acting(client: Client, name: str, identity: str) -> str:
    """Log in with the right password, to act as ``identity``; returns the last reply."""
    scram = ScramClient(name, "wonderland", f"n,a={identity},".encode())
    challenge = client.say(f"AUTH SCRAM-SHA-256 {base64.b64encode(scram.first).decode()}").removeprefix("334 ")
    signature = client.say(base64.b64encode(scram.final(base64.b64decode(challenge))).decode()).removeprefix("334 ")
    assert base64.b64decode(signature) == scram.expected
    return client.say("")


@pytest.mark.parametrize(("name", "identity"), [("alice", "Alice@Alpha.Example"), ("alice@alpha.example", "alice")])
def test_an_account_may_act_as_itself_by_either_of_its_names(served: Gateway, name: str, identity: str) -> None:
    with served.hello() as client:
        assert acting(client, name, identity).startswith("235 2.7.0")


@pytest.mark.parametrize("identity", ["mallory", "nobody", "alice@beta.example"])
def test_nobody_acts_as_somebody_else(served: Gateway, identity: str) -> None:
    with served.hello() as client:
        assert acting(client, "alice", identity) == "535 5.7.8 nobody may act as somebody else"
        assert client.say(f"MAIL FROM:<{ALICE}>").startswith("530")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n,,n=alice",
        b"p=tls-unique,,n=alice,r=nonce",
        b"n,a=,n=alice,r=nonce",
        b"n,,m=x,n=alice,r=nonce",
        b"\xff\0",
    ],
)
def test_what_is_no_scram_is_refused(served: Gateway, message: bytes) -> None:
    with served.hello() as client:
        assert client.say("AUTH SCRAM-SHA-256") == "334 "
        assert client.say(base64.b64encode(message).decode()).startswith("501 5.5.2")
        assert client.say("NOOP").startswith("250")


def test_an_exchange_may_be_given_up(served: Gateway) -> None:
    with served.hello() as client:
        client.say("AUTH SCRAM-SHA-256")
        assert client.say("*").startswith("501 5.7.0")
        assert client.say(f"MAIL FROM:<{ALICE}>").startswith("530")


@pytest.mark.parametrize(("users", "offer"), [([PLAIN, KEPT], True), ([KEPT, HASHED], False), ([HASHED], False)])
def test_it_is_offered_where_it_works_for_everybody(users: list[User], offer: bool) -> None:
    users = [replace(user, name=f"user{number}", address=None) for number, user in enumerate(users)]
    assert ScramUsers(Users(users)).offered is offer


def test_what_is_not_offered_is_not_taken(tmp_path: Path) -> None:
    with gateway(tmp_path, OPTIONS, users=[HASHED]) as served, served.hello() as client:
        assert client.say("AUTH SCRAM-SHA-256") == "504 5.5.4 only these are known here: PLAIN LOGIN"


def test_nobody_looks_like_somebody_each_time() -> None:
    first, again = (ScramUsers(Users([KEPT]), b"secret") for _ in range(2))
    assert first.keys(b"nobody").salt == again.keys(b"nobody").salt
    assert first.keys(b"nobody").salt != first.keys(b"no one").salt
    assert len(first.keys(b"nobody").salt) == len(first.keys(b"alice").salt)
    assert first.find(b"\xff") is None
