"""What the store says of itself: readiness by probe, and metrics that agree with what was done."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.post_manager.http.app import create_app
from services.post_manager.http.assembly import make_edge
from services.post_manager.http.rate import BURST_SECONDS
from services.post_manager.policy import Account, Accounts
from services.post_manager.status import Status
from services.post_manager.storage import damage
from services.post_manager.storage.engines import sqlite_path
from services.post_manager.storage.errors import StorageError
from stubmail.address import Address
from stubmail.request import STATUS
from tests.support.damaging import spoil
from tests.support.store import HOST, HttpClient, Person, Store, code, running_store

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")


class View:
    """One worker's view of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.draining = False
        self.status = Status(
            database=lambda: store.database,
            counters=store.counters,
            incoming=store.section.spool / "incoming",
            reserve=0,
            accounts=1,
            started=1_700_000_000,
            file=sqlite_path(store.section.database_url),
            draining=lambda: self.draining,
            clock=store.clock,
        )

    def ready(self) -> dict[str, str]:
        """The checks of /readyz."""
        answer = self.status.pages["/readyz"]()
        data = json.loads(answer.body)
        assert (answer.status, data["status"]) in ((200, "ready"), (503, "not ready"))
        assert (answer.status == 200) == (set(data["checks"].values()) == {"ok"})
        return dict(data["checks"])

    def metrics(self) -> dict[str, float]:
        """All samples, by name and label value."""
        text = self.status.metrics().body.decode()
        families = text_string_to_metric_families(text)
        return {" ".join([s.name, *s.labels.values()]): s.value for family in families for s in family.samples}


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    with running_store(tmp_path, [ALICE], quota_posts=2) as store:
        yield View(store)


def test_a_store_in_order_is_ready(view: View) -> None:
    assert set(view.ready()) >= {"running", "database", "disk"}
    assert set(view.ready().values()) == {"ok"}


def test_it_says_what_is_wrong(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    view.draining = True
    assert "draining" in view.ready()["running"]
    view.draining = False
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=-1, total=10))
    assert "to be kept in reserve" in view.ready()["disk"]
    monkeypatch.undo()
    with view.store.database.write() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    assert view.ready()["database"] != "ok"


def test_every_refusal_has_a_counter_from_the_start(view: View) -> None:
    metrics = view.metrics()
    for refusal in STATUS:
        assert metrics[f"stubmail_store_refusals_total {refusal}"] == 0
    for op in ("open", "store", "list", "fetch", "ack", "outbox", "withdraw"):
        assert metrics[f"stubmail_store_requests_total {op}"] == 0


def test_metrics_tell_what_was_done(view: View) -> None:
    alice, bob = view.store.talker(ALICE), view.store.talker(BOB)
    ids = [alice.keep(BOB, b"x" * 100)[0] for _ in range(2)]
    assert alice.keep(BOB, b"one too many")[1]["error"] == "quota"
    metrics = view.metrics()
    assert metrics["stubmail_store_waiting_posts"] == 2
    assert metrics["stubmail_store_waiting_bytes"] == 2 * len(b"head") + 100  # the body is stored once
    assert metrics["stubmail_store_sessions"] == 2
    bob.fetch((ids[0], 0))
    bob.ack(ids[0])
    alice.withdraw(ids[1])
    assert code(bob.send("list", {"senders": [], "after": 0, "limit": 1}, host="x.example")) == "wrong-host"
    metrics = view.metrics()
    done = {name: metrics[f"stubmail_store_posts_total {name}"] for name in ("stored", "fetched", "withdrawn")}
    assert done == {"stored": 2, "fetched": 1, "withdrawn": 1}
    assert metrics["stubmail_store_posts_refused_total quota"] == 1
    assert metrics["stubmail_store_requests_total store"] == 3
    assert metrics["stubmail_store_request_duration_seconds_count store"] == 3
    assert metrics["stubmail_store_request_duration_seconds_count refused"] == 1
    assert metrics["stubmail_store_refusals_total wrong-host"] == 1
    assert metrics["stubmail_store_waiting_posts"] == 0
    assert metrics["stubmail_store_received_bytes_total"] > 1000
    assert metrics["stubmail_store_sent_bytes_total"] > 100
    assert metrics["stubmail_store_accounts"] == 1
    assert metrics["process_start_time_seconds"] == 1_700_000_000
    view.store.clock.now += 3601
    assert view.metrics()["stubmail_store_sessions"] == 0


def test_a_database_that_is_gone_is_said_and_the_rest_stays(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(database: object) -> None:
        raise StorageError("the database is gone")

    monkeypatch.setattr("services.post_manager.storage.schema.check", gone)
    metrics = view.metrics()
    assert metrics["stubmail_store_database_up"] == 0
    assert "stubmail_store_waiting_posts" not in metrics
    assert metrics["stubmail_store_refusals_total mac"] == 0
    assert view.ready()["database"] == "the database is gone"


@pytest.mark.parametrize("table", ["posts", "posts_by_recipient", "tallies", "sessions_by_expiry"])
def test_a_file_that_turns_out_damaged_while_it_serves_is_said_until_it_is_cured(view: View, table: str) -> None:
    path = sqlite_path(view.store.section.database_url)
    assert path is not None
    view.store.talker(ALICE).keep(BOB, b"body")
    assert (view.ready()["damage"], view.metrics()["stubmail_store_read_only"]) == ("ok", 0)
    spoil(path, table)
    before = path.read_bytes()
    said = view.ready()["damage"]
    assert str(path) in said
    assert "nothing is written to it" in said
    assert "post_manager restore" in said
    assert view.metrics()["stubmail_store_read_only"] == 1
    assert damage.is_marked(path)
    assert code(view.store.talker(ALICE).send("withdraw", {"ids": ["00" * 16]})) == "unavailable"
    assert view.ready()["damage"] == said
    assert path.read_bytes() == before
    damage.clear(path)
    path.unlink()
    assert view.ready()["damage"] == "ok"


def test_metrics_find_damage_by_themselves(view: View) -> None:
    path = sqlite_path(view.store.section.database_url)
    assert path is not None
    spoil(path, "cookies")
    assert view.metrics()["stubmail_store_read_only"] == 1


def test_a_flood_of_refusals_is_logged_sparingly(view: View, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for _ in range(200):
        view.store.http.get("/post_manager")
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(lines) == 20
    assert view.store.counters["refused method"] == 200


def test_an_accounts_rate_is_its_own_and_goes_over_all_sessions(tmp_path: Path) -> None:
    with running_store(tmp_path, rate_client=1) as store:
        fast = Account("alice", Address.parse(ALICE.address), ALICE.fingerprint, store.section.terms, rate=2)
        edge = make_edge(
            store.section, HOST, Accounts([fast]), store.database, counters=store.counters, clock=store.clock
        )
        store.http = HttpClient(create_app(edge))
        talkers = [store.talker(ALICE) for _ in range(3)]
        query = {"senders": [], "after": 0, "limit": 1}
        sessions = itertools.cycle(talkers)
        answers = [next(sessions).send("list", query).status_code for _ in range(2 * BURST_SECONDS)]
        assert answers == [200] * (2 * BURST_SECONDS - 3) + [429] * 3  # three to open the sessions
        bob, again = store.talker(BOB), store.talker(BOB)
        for talker in (bob, again):  # who has no account: each session for itself
            answers = [talker.send("list", query).status_code for _ in range(BURST_SECONDS + 1)]
            assert answers == [200] * BURST_SECONDS + [429]
        store.clock.now += 1
        assert [talker.send("list", query).status_code for talker in talkers] == [200, 200, 429]
