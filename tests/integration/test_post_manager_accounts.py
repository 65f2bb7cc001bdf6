"""`post_manager accounts` with a store that runs: it is told, and does as the file says, without a restart."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubmail.datagram import Waiting
from tests.support.store import Person, code
from tests.support.store_process import StoreProcess, store_process
from tests.support.waiting import wait_until

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")
CAROL = Person("carol@alpha.example")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    with store_process(tmp_path, [ALICE]) as store:
        yield store


def run(store: StoreProcess, *arguments: str) -> str:
    process = store.run("accounts", *arguments)
    assert process.returncode == 0, process.stderr
    return process.stdout.decode()


def test_an_account_comes_is_limited_and_goes(store: StoreProcess) -> None:
    carol = store.talker(CAROL)
    assert code(carol.send("store", {"posts": []})) == "account"
    added = run(store, "add", "carol", "--address", CAROL.address, "--fingerprint", CAROL.fingerprint, "quota_posts=1")
    assert f"process {store.pid}, was told" in added
    wait_until(lambda: carol.send("store", {"posts": []}).status_code == 200, 30, "carol's account")
    first, result = carol.keep(BOB, b"one")
    assert result["state"] == "stored"
    assert carol.keep(BOB, b"two")[1]["error"] == "quota"
    run(store, "set", "carol", "quota_posts=2")
    wait_until(lambda: carol.keep(BOB, b"two")[1]["state"] == "stored", 30, "the new quota")
    assert "2 posts that wait stay" in run(store, "remove", "carol")
    wait_until(lambda: carol.send("store", {"posts": []}).status_code == 403, 30, "the end of the account")
    # What she stored is delivered, and she sees so.
    bob = store.talker(BOB)
    assert bob.fetch((first, 0))[0][1] == b"headone"
    bob.ack(first)
    assert sorted(post["state"] for post in carol.outbox()) == ["fetched", "waiting"]


def test_a_change_that_would_break_the_file_reaches_no_store(store: StoreProcess) -> None:
    before = (store.root / "accounts.toml").read_bytes()
    process = store.run("accounts", "set", "n0", "lifetime_days=0")
    assert process.returncode == os.EX_CONFIG
    assert process.stderr.decode().count("\n") == 1
    assert (store.root / "accounts.toml").read_bytes() == before
    assert "reloaded" not in store.text()


def test_one_spool_directory_has_one_store(store: StoreProcess) -> None:
    other = StoreProcess(store.root, [ALICE])
    process = other.run()
    assert process.returncode == os.EX_UNAVAILABLE
    assert f"runs with this spool directory already, as process {store.pid}" in process.stderr.decode()
    assert store.ready()
    store.stop()
    assert "no store runs" in run(store, "set", "n0", "rate=5")
    store.start()
    assert store.talker(ALICE).keep(BOB, b"x")[1]["state"] == "stored"


def test_both_processes_count_into_the_same_metrics(store: StoreProcess) -> None:
    bob = store.talker(BOB)
    assert store.check(bob) == Waiting(0, 0)

    def counted() -> bool:
        return 'stubmail_store_checks_total{outcome="answered"} 1.0\n' in store.ask_admin("/metrics").data.decode()

    wait_until(counted, 30, "the notifier's counter")
    store.stop()
    store.start()
    assert counted()
