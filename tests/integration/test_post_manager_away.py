"""A store that starts before its database is there: it comes up, says so, and serves by itself when it is."""

import json
import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from stubmail.datagram import Waiting, token_request_to_wire
from tests.support.ports import LOOPBACK, free_port
from tests.support.store import Person, Talker, code
from tests.support.store_process import StoreProcess, descendants
from tests.support.waiting import wait_until

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")


@contextmanager
def started(store: StoreProcess) -> Iterator[StoreProcess]:
    """A store that answers, though it is not ready."""
    store.start(ready=False)
    try:
        yield store
    finally:
        store.close()


def workers(store: StoreProcess) -> set[int]:
    """The process ids of gunicorn's workers."""
    found = []
    for pid in descendants(store.pid):
        with suppress(OSError):
            if b"services.post_manager.http.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return set(found[1:])  # the first one is their master


def assert_away(store: StoreProcess, *words: str) -> None:
    """It lives, is not ready and says why; requests get 503, and checks no answer."""
    refused = Talker(store, ALICE).open()  # type: ignore[arg-type]  # what it needs of a store
    assert (code(refused), refused.status_code) == ("unavailable", 503)
    assert int(refused.headers["Retry-After"]) > 0
    assert store.ask_admin("/livez").status_code == 200

    def problem() -> str:
        ready = store.ask_admin("/readyz")
        assert ready.status_code == 503
        return str(json.loads(ready.data).get("checks", {}).get("database"))  # there are none when one takes too long

    wait_until(lambda: all(word in problem() for word in words), 30, f"{words} in /readyz")  # each worker finds out
    metrics = store.ask_admin("/metrics").data.decode()
    assert "stubmail_store_database_up 0" in metrics
    assert 'stubmail_store_refusals_total{code="unavailable"}' in metrics
    assert store.datagram(token_request_to_wire(bytes(16)), 0.2) is None


def assert_serves(store: StoreProcess, processes: int = 2) -> None:
    """It becomes ready by itself, each worker and the notifier, and mail goes through."""
    store.wait_for("post_manager info - found database=", processes)
    wait_until(store.ready, 30, "readiness")
    bob = store.talker(BOB)
    store.talker(ALICE).keep(BOB, b"body")
    serial = bob.waiting(ALICE)["serial"]
    wait_until(lambda: store.datagram(token_request_to_wire(bytes(16)), 0.2), 30, "the notifier")
    assert store.check(bob) == Waiting(1, serial)
    for unwanted in ("Traceback", "died", "failed to boot"):
        assert unwanted not in store.text()


def test_a_file_whose_directory_is_not_there_yet(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    path = mount / "store.db"
    with started(StoreProcess(tmp_path, [ALICE], workers=2, database=f"sqlite:///{path}")) as store:
        assert_away(store, str(path), "No such file or directory")
        before = workers(store)
        store.signal(signal.SIGHUP)  # new workers come up in the same way
        wait_until(lambda: not before & workers(store), 30, "new workers")
        store.wait_for("post_manager error - unavailable", 2 + 2 * len(before))
        assert_away(store, str(path))
        mount.mkdir()
        assert_serves(store, 3)
        assert store.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_to_while_it_waits(tmp_path: Path, number: int) -> None:
    with started(StoreProcess(tmp_path, [ALICE], database=f"sqlite:///{tmp_path}/mount/store.db")) as store:
        assert store.end(number) == 0


def test_a_configuration_that_is_wrong_ends_it_all_the_same(tmp_path: Path) -> None:
    store = StoreProcess(tmp_path, [ALICE], database=f"sqlite:///{tmp_path}/mount/store.db")
    checked = store.run("--check")
    assert checked.returncode == os.EX_UNAVAILABLE
    assert b"mount/store.db cannot be used: No such file or directory" in checked.stderr
    (tmp_path / "accounts.toml").write_text("[accounts")
    assert store.run().returncode == os.EX_CONFIG
    for url, status in (("mysql://localhost/x", os.EX_CONFIG), ("sqlite://", os.EX_CONFIG)):
        store = StoreProcess(tmp_path, [ALICE], database=url)
        done = store.run()
        assert (done.returncode, len(done.stderr.splitlines())) == (status, 1), done.stderr


def test_a_server_that_nobody_answers_for(tmp_path: Path) -> None:
    """A port that takes connections and says nothing: what waits for it gives up in time, /livez does not wait."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        url = f"postgresql://x@{LOOPBACK}:{silent.getsockname()[1]}/x?connect_timeout=2"
        with started(StoreProcess(tmp_path, [ALICE], database=url)) as store:
            assert store.ask_admin("/livez").status_code == 200
            assert_away(store, LOOPBACK)
            assert store.stop() == 0


@pytest.mark.postgresql
def test_a_server_that_is_started_later_and_one_that_is_away_when_a_worker_is_made(tmp_path: Path) -> None:
    from tests.support.postgresql import running_cluster

    with running_cluster() as cluster:
        url = cluster.url(cluster.create())
        cluster.stop()
        with started(StoreProcess(tmp_path, [ALICE], workers=2, database=url)) as store:
            assert_away(store, f"{LOOPBACK}:{cluster.port}")
            cluster.start()
            assert_serves(store, 3)
            cluster.kill()
            before = workers(store)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not before & workers(store), 30, "new workers")
            wait_until(store.answers, 30, "an answer")
            assert_away(store)
            cluster.start()
            store.wait_for("post_manager info - found database=", 5)
            assert store.talker(ALICE).keep(BOB, b"x")[1]["state"] == "stored"
            assert store.stop() == 0
        assert "failed to boot" not in store.text()
        assert cluster.password not in store.text()


def test_what_is_at_the_other_end_is_found_out_when_it_comes(tmp_path: Path) -> None:
    """Another program's database, once it is there, is left alone, and the store says what is the matter with it."""
    mount = tmp_path / "mount"
    with started(StoreProcess(tmp_path, [ALICE], database=f"sqlite:///{mount}/store.db")) as store:
        assert_away(store)
        with closing(sqlite3.connect(tmp_path / "other.db")) as other:
            other.execute("CREATE TABLE recipes (name TEXT)")
        aside = tmp_path / "aside"
        aside.mkdir()
        (tmp_path / "other.db").rename(aside / "store.db")
        aside.rename(mount)
        wait_until(lambda: b"other tables" in store.ask_admin("/readyz").data, 30, "the reason")
        assert_away(store, "other tables")
        (mount / "store.db").unlink()
        assert_serves(store)
        assert store.stop() == 0


def test_a_port_in_use_ends_it_also_while_the_database_is_away(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server((LOOPBACK, port)):
        store = StoreProcess(tmp_path, [ALICE], database=f"sqlite:///{tmp_path}/no/s.db", listen=f"{LOOPBACK}:{port}")
        done = store.run()
    assert done.returncode == os.EX_UNAVAILABLE
    assert b"in use" in done.stderr
