"""A database server goes away and comes back: the store says so meanwhile, goes on by itself, and loses nothing."""

import contextlib
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.post_manager.storage import mailbox, outbox, posts, schema
from services.post_manager.storage.database import Database
from services.post_manager.storage.errors import StorageError
from services.post_manager.storage.intake import KNOWN
from services.post_manager.storage.posts import NewPost, Sender, Terms
from services.post_manager.storage.watch import Watch
from stubmail.datagram import Unknown, Waiting, answer_from_wire, check_to_wire
from tests.support.databases import prepared
from tests.support.postgresql import Cluster, running_cluster
from tests.support.store import Person, Talker, code
from tests.support.store_process import StoreProcess, store_process
from tests.support.store_rows import Octets, assert_consistent
from tests.support.waiting import wait_until

pytestmark = pytest.mark.postgresql

ALICE, BOB = Person("alice@alpha.example"), Person("bob@beta.example")
SENDER, READER = Sender("A" * 40, "alice@alpha.example"), "B" * 40
TERMS = Terms(quota_posts=10**6, quota_octets=10**9, max_post=10**6, lifetime=1000)
NOW, KEEP = 1_000_000, 500
BODY = Octets(b"body" * 1000)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """A server of this module's own, which tests stop, and which writes as durably as in earnest."""
    with running_cluster(fsync=True) as cluster:
        yield cluster


@pytest.fixture
def url(server: Cluster) -> Iterator[str]:
    name = server.create()
    yield server.url(name)
    server.drop(name)


def end(server: Cluster, how: str) -> None:
    """Take the server away: asked to stop, told to, or struck dead."""
    if how == "kill":
        server.kill()
    else:
        server.stop(signal.SIGINT if how == "stop" else signal.SIGQUIT)


def keep(database: Database, post_id: bytes) -> None:
    new = NewPost(post_id, READER, "b@beta.example", b"h", 0)
    assert posts.store(database, SENDER, [new], [BODY], TERMS, NOW)[0] in (None, KNOWN)  # when the answer was lost


def until_done(work: Callable[[], object]) -> int:
    """Repeat work until the database has done it, as a client does; return how often it could not."""
    deadline = time.monotonic() + 60
    for failures in range(10**6):
        try:
            work()
            return failures
        except StorageError:
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)
    raise AssertionError


@pytest.mark.parametrize("how", ["stop", "immediate", "kill"])
def test_a_server_that_was_restarted_is_not_even_noticed(server: Cluster, url: str, how: str) -> None:
    with contextlib.closing(prepared(url)) as database:
        with contextlib.ExitStack() as stack:
            for _ in range(4):  # all connections of the pool have been used, and will be dead
                stack.enter_context(database.read())
        keep(database, b"1" * 16)
        end(server, how)
        with pytest.raises(StorageError):
            keep(database, b"2" * 16)
        server.start()
        keep(database, b"3" * 16)
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(database.read())
        assert [post.id for post in mailbox.page(database, READER, [SENDER.fingerprint], 0, 9).posts] == [
            b"1" * 16,
            b"3" * 16,
        ]
        assert_consistent(database)


def test_a_connection_that_breaks_within_a_transaction_breaks_that_alone(server: Cluster, url: str) -> None:
    with contextlib.closing(prepared(url)) as database:
        with pytest.raises(StorageError), database.write() as connection:
            connection.execute(schema.chores.update().values(due=7))
            end(server, "immediate")
            server.start()
            connection.execute(schema.chores.update().values(due=8))
        with database.read() as connection:
            assert {row.due for row in connection.execute(schema.chores.select())} == {0}


def test_a_watch_is_made_anew(server: Cluster, url: str) -> None:
    with contextlib.closing(prepared(url)) as database:
        with pytest.raises(StorageError), database.watch() as connection:
            watch = Watch(connection)
            assert watch.look().cookies([bytes(16)], NOW) == {}
            end(server, "immediate")
            watch.look()
            raise AssertionError
        with pytest.raises(StorageError), database.watch() as connection:
            Watch(connection)
        server.start()
        with database.watch() as connection:
            assert Watch(connection).look().cookies([bytes(16)], NOW) == {}


@pytest.mark.parametrize("how", ["immediate", "kill"])
def test_nothing_is_lost_or_twice_when_the_server_dies_under_traffic(server: Cluster, url: str, how: str) -> None:
    done = threading.Event()
    stored: list[bytes] = []
    fetched: list[bytes] = []
    prepared(url).close()

    def send() -> int:
        failures = 0
        with contextlib.closing(Database(url)) as database:
            while not done.is_set():
                post_id = secrets.token_bytes(16)
                failures += until_done(lambda post_id=post_id: keep(database, post_id))  # type: ignore[misc]
                stored.append(post_id)
        return failures

    def receive() -> None:
        with contextlib.closing(Database(url)) as database:
            while not done.is_set():

                def pull() -> None:
                    page = mailbox.page(database, READER, [SENDER.fingerprint], 0, 5)
                    ids = [post.id for post in page.posts]
                    if ids:
                        mailbox.acknowledge(database, READER, ids, NOW, KEEP)
                        fetched.extend(ids)

                until_done(pull)

    with ThreadPoolExecutor(5) as pool:
        senders = [pool.submit(send) for _ in range(4)]
        receiver = pool.submit(receive)
        try:
            for round_ in range(1, 4):
                wait_until(lambda round_=round_: len(stored) > round_ * 20, 60, "traffic")
                end(server, how)
                server.start()
            wait_until(lambda: len(stored) > 100, 60, "traffic behind the last restart")
        finally:
            done.set()
        failures = sum(future.result(60) for future in senders)
        receiver.result(60)
    print(f"{len(stored)} posts, {failures} attempts failed")
    with contextlib.closing(Database(url)) as database:
        assert_consistent(database)
        kept, after = [], 0
        while page := outbox.page(database, SENDER.fingerprint, after, 1000, [])[0]:
            kept += [post.id for post in page]
            after = page[-1].serial
        ended = {post.id for post in outbox.page(database, SENDER.fingerprint, 0, 10**6, [schema.FETCHED])[0]}
    assert sorted(kept) == sorted(stored)
    assert set(fetched) <= ended


def test_the_service_answers_503_while_the_server_is_gone_and_goes_on_by_itself(
    server: Cluster, url: str, tmp_path: Path
) -> None:
    password = tmp_path / "url"
    password.write_text(url + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUBMAIL_POST_MANAGER_DATABASE__FILE", str(password))
        with store_process(tmp_path, [ALICE], workers=2) as store:
            alice, bob = store.talker(ALICE), store.talker(BOB)
            first, _ = alice.keep(BOB, b"first")
            assert store.check(bob) == Waiting(1, bob.waiting(ALICE)["serial"])
            end(server, "kill")
            for talker in (alice, bob):
                refused = talker.send("list", {"senders": [], "after": 0, "limit": 1})
                assert (code(refused), refused.status_code) == ("unavailable", 503)
                assert int(refused.headers["Retry-After"]) > 0
            server.start()
            second, _ = alice.keep(BOB, b"second")
            serial = bob.waiting(ALICE)["serial"]
            wait_until(lambda: _ask(store, bob) == Waiting(2, serial), 30, "the answer to a check")
            assert [content for _, content in bob.fetch((first, 0), (second, 0))] == [b"headfirst", b"headsecond"]
            bob.ack(first, second)
            assert [post["state"] for post in alice.outbox()] == ["fetched", "fetched"]
            assert store.stop() == 0
            assert server.password not in store.text()
            assert "Traceback" not in store.text()


def _ask(store: StoreProcess, talker: Talker) -> Waiting | Unknown | None:
    """Check once; None when no answer comes, as long as the notifier has not found the server again."""
    nonce, key = secrets.token_bytes(16), bytes.fromhex(talker.session["cookie_key"])
    answer = store.datagram(check_to_wire(bytes.fromhex(talker.session["cookie"]), nonce, key), 0.3)
    return None if answer is None else answer_from_wire(answer, nonce, key)
