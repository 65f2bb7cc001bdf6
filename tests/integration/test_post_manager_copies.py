"""What an admin does with the data of a store that runs: back up, restore, verify, move; and its worst day."""

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.post_manager.storage import damage
from services.post_manager.storage.engines import sqlite_url
from stubmail.datagram import Waiting
from tests.support.damaging import spoil
from tests.support.histories import HEAD
from tests.support.store import Person, Talker, code
from tests.support.store_process import StoreProcess, store_process
from tests.support.waiting import wait_until

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    with store_process(tmp_path, [ALICE]) as store:
        yield store


def good(process: Any, status: int = 0) -> str:
    """The output of a command that ended as it should."""
    assert process.returncode == status, process
    return str(process.stdout.decode())


class Traffic:
    """Somebody who goes on storing posts, each with an id of its own; ``kept`` are those that the store has taken."""

    def __init__(self, store: StoreProcess) -> None:
        self._talker = store.talker(ALICE)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kept: list[str] = []
        self.refused = 0

    def __enter__(self) -> "Traffic":
        self._thread.start()
        wait_until(lambda: len(self.kept) > 5, 30, "some traffic")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.is_set():
            post_id = os.urandom(16).hex()
            post = {"id": post_id, "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 1}
            response = self._talker.send("store", {"posts": [post]}, [HEAD, os.urandom(20_000)])
            if response.status_code == 200:
                self.kept.append(post_id)
            else:
                assert response.status_code == 503, response.data
                self.refused += 1


def waiting_ids(store: StoreProcess) -> list[str]:
    """What Bob would fetch."""
    bob = store.talker(BOB)
    found: list[str] = []
    after = 0
    while True:
        page = bob.waiting(ALICE, after=after)
        found += [item["id"] for item in page["posts"]]
        if not page["more"]:
            return found
        after = page["posts"][-1]["serial"]


def test_a_backup_is_made_restored_and_verified_while_posts_come_in(tmp_path: Path, store: StoreProcess) -> None:
    backup = tmp_path / "backup.db"
    with Traffic(store) as traffic:
        before = len(traffic.kept)
        said = good(store.run("backup", str(backup)))
        after = len(traffic.kept)
        assert before
        with contextlib.closing(sqlite3.connect(backup)) as file:
            saved = [bytes(row[0]).hex() for row in file.execute("SELECT id FROM posts ORDER BY serial")]
        assert set(traffic.kept[:before]) <= set(saved) <= set(traffic.kept[: after + 1])
        assert f"{len(saved)} posts, {len(saved)} of them waiting" in said
        assert "is good" in good(store.run("verify", str(backup)))
        assert "added 0 posts" in good(store.run("restore", str(backup)))
        assert "is good" in good(store.run("verify"))
    assert traffic.refused == 0
    assert waiting_ids(store) == traffic.kept


def test_what_a_store_has_lost_is_put_back_and_pullers_notice(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with store_process(tmp_path / "old", [ALICE]) as old:
        lost = [old.talker(ALICE).keep(BOB, b"x" * 300_000, HEAD)[0].hex() for _ in range(3)]
        good(old.run("backup", str(tmp_path / "backup")))
    with store_process(tmp_path / "new", [ALICE]) as new:
        late, _ = new.talker(ALICE).keep(BOB, b"late", HEAD)
        bob = new.talker(BOB)
        seen = bob.waiting(ALICE)["serial"]
        assert new.check(bob) == Waiting(1, seen)
        assert "added 3 posts" in good(new.run("restore", str(tmp_path / "backup")))
        answer = wait_until(lambda: (found := new.check(bob)) != Waiting(1, seen) and found, what="news")
        assert isinstance(answer, Waiting)
        assert answer.count == 4
        assert answer.serial > seen  # a puller that has dealt with everything before lists again
        assert waiting_ids(new) == [late.hex(), *lost]
        assert [content for _, content in bob.fetch((bytes.fromhex(lost[1]), 0))] == [HEAD + b"x" * 300_000]


def test_verify_names_damage(tmp_path: Path, store: StoreProcess) -> None:
    post_id, _ = store.talker(ALICE).keep(BOB, b"x" * 300_000, HEAD)
    with contextlib.closing(sqlite3.connect(store.spool / "store.db")) as file:
        file.execute("UPDATE chunks SET data = zeroblob(262144) WHERE number = 0")
        file.commit()
    process = store.run("verify")
    of_content, of_post = good(process, os.EX_DATAERR).splitlines()
    assert of_content.endswith("its digest differs")
    assert of_post.startswith(f"post {post_id.hex()} from {ALICE.fingerprint} ({ALICE.address}) to {BOB.fingerprint}")
    assert not damage.is_marked(store.spool / "store.db")  # the file as such is good
    process = store.run("backup", str(tmp_path / "backup"))
    assert process.returncode != 0
    assert b"its digest differs" in process.stderr
    assert not (tmp_path / "backup").exists()
    assert b"left out" in store.run("backup", "--salvage", str(tmp_path / "backup")).stderr
    assert "is good" in good(store.run("verify", str(tmp_path / "backup")))


@pytest.mark.parametrize("words", [["backup", "-"], ["backup"], ["migrate"], ["restore"]])
def test_what_cannot_be_meant_is_refused(store: StoreProcess, words: list[str]) -> None:
    process = store.run(*words)
    assert process.returncode in (2, os.EX_USAGE)
    assert process.stderr


def test_a_file_that_is_damaged_while_the_store_runs_is_only_read_until_a_backup_is_restored(
    tmp_path: Path, store: StoreProcess
) -> None:
    path = store.spool / "store.db"
    alice, bob = store.talker(ALICE), store.talker(BOB)
    ids = [alice.keep(BOB, b"x" * 5_000, HEAD)[0] for _ in range(3)]
    good(store.run("backup", str(tmp_path / "backup")))
    spoil(path, "posts_by_due")
    assert "the file" in good(store.run("verify"), os.EX_DATAERR)
    assert damage.is_marked(path)
    before = path.read_bytes()
    alice, bob = store.talker(ALICE), store.talker(BOB)
    assert [content for _, content in bob.fetch((ids[0], 0))] == [HEAD + b"x" * 5_000]
    assert len(bob.waiting(ALICE)["posts"]) == 3
    assert code(bob.send("ack", {"ids": [ids[0].hex()]})) == "unavailable"
    assert store.check(bob).count == 3  # type: ignore[union-attr]
    assert path.read_bytes() == before
    assert f"{path} is damaged" in store.ask_admin("/readyz").get_json()["checks"]["damage"]
    assert "goes on with it" in good(store.run("restore", str(tmp_path / "backup")))
    assert store.ready()
    assert len(list(store.spool.glob("store.db.damaged-*Z"))) == 1
    alice, bob = store.talker(ALICE), store.talker(BOB)
    assert bob.ack(ids[0]) == {"acknowledged": 1}
    alice.keep(BOB, b"after", HEAD)
    assert store.check(bob).count == 3  # type: ignore[union-attr]
    assert "is good" in good(store.run("verify"))


def test_what_only_seemed_damaged_is_written_to_again(store: StoreProcess) -> None:
    damage.mark(store.spool / "store.db", "a cosmic ray")
    talker = store.talker(ALICE)
    late = {"id": "ab" * 16, "to": BOB.fingerprint, "address": BOB.address, "head": 0, "body": 0}
    assert code(talker.send("store", {"posts": [late]}, [b"x"])) == "unavailable"
    assert "writes to it again" in good(store.run("verify"))
    assert store.talker(ALICE).keep(BOB, b"x", HEAD)[1]["state"] == "stored"


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    with store_process(tmp_path / "good", [ALICE]) as other:
        other.talker(ALICE).keep(BOB, b"x", HEAD)
        good(other.run("backup", str(tmp_path / "backup")))
    store = StoreProcess(tmp_path, [ALICE])
    path = store.spool / "store.db"
    store.spool.mkdir(mode=0o700)
    path.write_bytes(b"this is no database " * 1000)
    store.start(ready=False)
    try:
        assert store.ask_admin("/readyz").status_code == 503
        assert code(Talker(store, ALICE).open()) == "unavailable"  # type: ignore[arg-type]
        assert store.text().count("post_manager critical - damaged ") == 1
        assert path.read_bytes() == b"this is no database " * 1000
        assert store.run("--check").returncode == os.EX_DATAERR
        assert "restart a store that runs" in good(store.run("restore", str(tmp_path / "backup")))
        assert store.stop() == 0
        store.start()
        assert len(waiting_ids(store)) == 1
    finally:
        store.close()


def _to_file(tmp_path: Path, _request: pytest.FixtureRequest) -> str:
    return sqlite_url(tmp_path / "target.db")


def _to_server(_tmp_path: Path, request: pytest.FixtureRequest) -> str:
    cluster = request.getfixturevalue("cluster")
    return str(cluster.url(cluster.create()))


@pytest.mark.parametrize(
    "target", [_to_file, pytest.param(_to_server, marks=pytest.mark.postgresql)], ids=["sqlite", "postgresql"]
)
def test_a_store_moves_while_posts_come_in(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    store: StoreProcess,
    target: Callable[[Path, pytest.FixtureRequest], str],
) -> None:
    url = target(tmp_path, request)
    (tmp_path / "url").write_text(url + "\n")
    with Traffic(store) as traffic:
        dry = good(store.run("migrate", "--to-file", str(tmp_path / "url"), "--dry-run"))
        assert dry.startswith("would move ")
        said = good(store.run("migrate", "--to-file", str(tmp_path / "url")))
        assert said.startswith("moved ")
        wait_until(lambda: traffic.refused, 30, "a refusal")
        kept = list(traffic.kept)
        wait_until(lambda now=traffic.refused: traffic.refused > now + 3, 30, "refusals")
        assert traffic.kept == kept
    assert store.stop() == 0
    process = store.run()
    assert process.returncode == os.EX_CONFIG
    assert b"was moved: set [post_manager] database" in process.stderr
    store.config.write_text(store.config.read_text() + f"database = {json.dumps(url)}\n")
    store.start()
    assert waiting_ids(store) == kept
    bob = store.talker(BOB)
    assert len(bob.fetch(*[(bytes.fromhex(one), 0) for one in kept[-50:]])) == len(kept[-50:])
    assert store.talker(ALICE).keep(BOB, b"x", HEAD)[1]["state"] == "stored"
    assert "is good" in good(store.run("verify"))


def test_a_password_is_neither_taken_from_the_command_line_nor_shown(tmp_path: Path, store: StoreProcess) -> None:
    url = "postgresql://stubmail:very-secret@127.0.0.1:1/stubmail"
    process = store.run("migrate", "--to", url)
    assert process.returncode == os.EX_USAGE
    assert b"--to-file" in process.stderr
    assert b"very-secret" not in process.stdout + process.stderr
    (tmp_path / "url").write_text(url)
    variable = "STUBMAIL_POST_MANAGER_MIGRATE_TO"
    for words, environ in (
        (["--to-file", str(tmp_path / "url")], {}),
        ([], {variable: url}),
        ([], {variable + "__FILE": str(tmp_path / "url")}),
        (["--dry-run"], {variable: url}),
    ):
        process = store.run("migrate", *words, environ=environ)
        assert process.returncode == os.EX_UNAVAILABLE, process
        assert b"'stubmail' at 127.0.0.1:1" in process.stderr
        assert b"very-secret" not in process.stdout + process.stderr
