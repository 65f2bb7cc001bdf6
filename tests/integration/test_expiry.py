"""What nobody fetched: it expires or is withdrawn, the outbox says so, and its sender finds one notice in his mbox."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from stubmail.cookies import account_directory
from stubmail.testing.network import Network
from stubmail.testing.plugin import StubNetwork
from stubmail.testing.walk import Correspondent, compose
from tests.support.waiting import wait_until

DOMAINS = {"alpha.example": ["alice"], "beta.example": ["bob"]}
PULLER = "alpha.example/http2mbox"
SECRET = b"From here on"  # of compose's text


def execute(path: Any, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.execute(statement, values)


def database_of(network: Network) -> Path:
    return Path(network.domains["alpha.example"].site.accounts.parent, "store.db")


def states(network: Network) -> list[int]:
    """The states of all posts as alpha.example's store has them; that takes less time than to ask it."""
    with contextlib.closing(sqlite3.connect(database_of(network), timeout=30)) as database:
        return [state for (state,) in database.execute("SELECT state FROM posts")]


def expire(network: Network) -> None:
    """Let the lifetime of all that waits at alpha.example be over, and the store look for that."""
    store = database_of(network)
    execute(store, "UPDATE posts SET expires = ?, due = ? WHERE state = 0", int(time.time()) - 1, int(time.time()) - 1)
    execute(store, "UPDATE chores SET due = 0")


def look_again(network: Network, alice: Correspondent) -> None:
    """kill -9 alice's puller; the next one finds that it is time to look into her outbox."""
    state = account_directory(alice.domain.site.root / "state", alice.address) / "state.sqlite3"
    execute(state, "UPDATE watch SET due = 0")  # which is read once, at the start
    old = network.kill(PULLER)
    wait_until(lambda: network.pids[PULLER] != old, 30, "the next puller")
    wait_until(lambda: due(state) > time.time(), 60, "its look into the outbox")


def due(state: Any) -> float:
    with contextlib.closing(sqlite3.connect(state, timeout=30)) as database:
        return float(database.execute("SELECT due FROM watch").fetchone()[0])


def stored(network: Network, alice: Correspondent, bob: Correspondent, subject: str) -> bytes:
    """Send a message that waits, as bob's keyring does not have alice; return it."""
    message = compose(alice.address, bob.address, subject)
    before = len(states(network))
    alice.submit(bob.address, message)
    wait_until(lambda: len(states(network)) > before, 60, "the post")
    return message


def outbox(network: Network) -> list[dict[str, Any]]:
    return list(json.loads(stubmail(network, "list", "--json")))


def stubmail(network: Network, *arguments: str) -> str:
    config = str(network.domains["alpha.example"].config)
    command = [sys.executable, "-m", "commands", "outbox", *arguments, "--config", config]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def notices(alice: Correspondent) -> list[EmailMessage]:
    assert all(SECRET not in each for each in alice.read())
    return [message_from_bytes(each, policy=policy.SMTP) for each in alice.read()]  # type: ignore[misc]


def status(notice: EmailMessage) -> dict[str, str]:
    assert (notice.get_content_type(), notice.get_param("report-type")) == ("multipart/report", "delivery-status")
    _, report, quoted = notice.iter_parts()
    return {**dict(report.get_payload()[1].items()), "quoted": quoted.get_content()}


def test_what_expires_or_is_withdrawn_becomes_one_notice_each(stub_network: StubNetwork) -> None:
    network = stub_network(DOMAINS)
    first, second = network.domains.values()
    alice, bob = Correspondent("alice", first), Correspondent("bob", second)
    message = stored(network, alice, bob, "what expires")
    expire(network)
    wait_until(lambda: 0 not in states(network), 60, "the expiry")
    assert [post["state"] for post in outbox(network)] == ["expired"]
    look_again(network, alice)
    [notice] = notices(alice)
    told = status(notice)
    assert (told["Action"], told["Status"]) == ("failed", "5.4.7")
    assert told["Final-Recipient"] == f"rfc822; {bob.address}"
    assert told["quoted"].encode().endswith(message.partition(b"\r\n\r\n")[0] + b"\r\n")  # behind the trace field

    withdrawn = stored(network, alice, bob, "what is withdrawn")
    [post] = [post for post in outbox(network) if post["state"] == "waiting"]
    stubmail(network, "withdraw", post["id"])
    for _ in range(2):
        look_again(network, alice)
    assert len(notices(alice)) == 2
    told = status(notices(alice)[1])
    assert (told["Status"], told["X-Stub-Post-ID"]) == ("5.0.0", post["id"])
    assert told["quoted"].encode().endswith(withdrawn.partition(b"\r\n\r\n")[0] + b"\r\n")  # behind the trace field
