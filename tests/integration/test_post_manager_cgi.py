"""The CGI entry, run as a web server runs it: one process for each request, and one notifier for all of them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from email.parser import BytesHeaderParser
from pathlib import Path

import pytest

from services.post_manager.storage import schema
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.udp import daemon
from stubmail.datagram import Waiting
from tests.support.damaging import spoil
from tests.support.store import BOUNDARY, Person, Talker, code, multipart
from tests.support.store_process import REPOSITORY, Response, StoreProcess
from tests.support.waiting import wait_until

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")


class CgiStore(StoreProcess):
    """A store behind a web server that has CGI programs and nothing else."""

    def start_request(self, body: bytes, method: str = "POST") -> "subprocess.Popen[bytes]":
        environ = {
            "PATH": os.environ["PATH"],
            "STUB_CONF": str(self.config),
            "GATEWAY_INTERFACE": "CGI/1.1",
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "/cgi-bin/stubmail/post_manager",
            "PATH_INFO": "",
            "QUERY_STRING": "",
            "SERVER_NAME": "www.alpha.example",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "192.0.2.1",
            "CONTENT_TYPE": f"multipart/form-data; boundary={BOUNDARY}",
            "CONTENT_LENGTH": str(len(body)),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "services.post_manager.cgi"],
            cwd=REPOSITORY,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(body)
        process.stdin.close()
        process.stdin = None
        return process

    def finish(self, process: "subprocess.Popen[bytes]") -> Response:
        output, errors = process.communicate(timeout=60)
        with self.log.open("ab") as log:
            log.write(errors)
        head, _, body = output.partition(b"\r\n\r\n")
        headers = BytesHeaderParser().parsebytes(head)
        return Response(int(headers["Status"].split()[0]), headers, body)  # type: ignore[arg-type]

    def post(self, body: bytes) -> Response:
        return self.finish(self.start_request(body))

    def notifiers(self) -> list[int]:
        """The processes that hold the lock."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = entry.read_bytes().split(b"\0")
                if b"services.post_manager.udp.daemon_process" in words and str(self.config).encode() in words:
                    found.append(int(entry.parent.name))
        return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CgiStore]:
    store = CgiStore(tmp_path, [ALICE])
    yield store
    for pid in store.notifiers():
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not store.notifiers(), what="the end of the notifier")


def test_posts_go_through_a_cgi_program(store: CgiStore) -> None:
    alice, bob = store.talker(ALICE), store.talker(BOB)
    post_id, result = alice.keep(BOB, b"body" * 100_000)
    assert result["state"] == "stored"
    assert [item["id"] for item in bob.waiting(ALICE)["posts"]] == [post_id.hex()]
    [(_, content)] = bob.fetch((post_id, 0))
    assert content == b"head" + b"body" * 100_000
    log = store.spool / daemon.LOG
    match = wait_until(lambda: re.search(r"listening address=127\.0\.0\.1:(\d+)", log.read_text()), 30, "the notifier")
    store.udp = int(match[1])
    assert store.check(bob).count == 1  # type: ignore[union-attr]
    bob.ack(post_id)
    assert store.check(bob) == Waiting(0, 0)
    assert store.finish(store.start_request(b"", "GET")).status_code == 405


def test_however_many_calls_race_one_notifier_runs(store: CgiStore) -> None:
    body = multipart([("request", b"{}"), ("mac", b"")])
    processes = [store.start_request(body) for _ in range(6)]
    assert {store.finish(process).status_code for process in processes} == {400}
    [first] = store.notifiers()
    assert store.text().count("started pid=") == 1
    store.post(body)
    assert store.notifiers() == [first]
    os.kill(first, signal.SIGKILL)  # it is started again with the next call
    wait_until(lambda: store.notifiers() == [], what="its death")
    store.post(body)
    [second] = store.notifiers()
    assert second != first


def test_a_spool_of_another_user_is_a_clear_message(store: CgiStore) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to another user")
    store.spool.mkdir(mode=0o700)
    os.chown(store.spool, 12345, 12345)
    response = store.post(b"")
    assert (response.status_code, response.get_json()["error"]) == (503, "unavailable")
    assert "belongs to user 12345, but this process runs as user root" in store.text()
    assert str(store.spool) not in response.data.decode()


@pytest.mark.parametrize("table", ["posts_by_recipient", "posts_by_due", ""])
def test_a_damaged_file_is_read_and_never_written(tmp_path: Path, table: str) -> None:
    store = CgiStore(tmp_path, [ALICE], udp=False)
    path = store.spool / "store.db"
    post_id, _ = store.talker(ALICE).keep(BOB, b"body")
    if table:
        spoil(path, table)
    else:
        path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    before = path.read_bytes()
    alice, bob = Talker(store, ALICE), Talker(store, BOB)  # type: ignore[arg-type]  # what they need of a store
    opened = [talker.open().status_code for talker in (alice, bob)]
    assert opened == ([200, 200] if table else [503, 503])
    listed = bob.send("list", {"senders": [ALICE.fingerprint], "after": 0, "limit": 9})
    assert listed.status_code == (200 if table == "posts_by_due" else 503)
    if table:
        assert [content for _, content in bob.fetch((post_id, 0))] == [b"headbody"]
        assert code(bob.send("ack", {"ids": [post_id.hex()]})) == "unavailable"
    assert f"{path} is damaged" in store.text()
    assert "post_manager restore" in store.text()
    mark = len(store.text())
    assert code(alice.send("withdraw", {"ids": [post_id.hex()]})) == "unavailable"
    assert f"{path} is damaged" in store.text()[mark:], "each call says so"
    assert path.read_bytes() == before


def test_a_missing_configuration_is_a_clear_message(store: CgiStore) -> None:
    store.config.unlink()
    response = store.post(b"")
    assert response.status_code == 503
    assert "no configuration file" in store.text()


def test_a_second_engine_in_a_process_leaves_the_first_ones_locks_alone(tmp_path: Path) -> None:
    """A process that comes and goes would otherwise remove the journal of a database that is in use."""
    url = sqlite_url(tmp_path / "store.db")
    first = Database(url)
    schema.prepare(first)
    with first.watch() as connection, connection.begin():
        Database(url).close()
        script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM posts'); c.close()"
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "store.db")], check=True, timeout=30)
        assert (tmp_path / "store.db-wal").exists()
    first.close()


def test_a_database_that_is_away_is_a_reason_to_try_again_soon(tmp_path: Path) -> None:
    store = CgiStore(tmp_path, [ALICE], database=f"sqlite:///{tmp_path}/mount/store.db", udp=False)
    response = store.post(multipart([("request", b"{}"), ("mac", b"")]))
    assert (response.status_code, response.get_json()["error"], response.headers["Retry-After"]) == (
        503,
        "unavailable",
        "30",
    )
    assert "No such file or directory" in store.text()
    (tmp_path / "mount").mkdir()
    assert store.talker(ALICE).keep(BOB, b"x")[1]["state"] == "stored"
