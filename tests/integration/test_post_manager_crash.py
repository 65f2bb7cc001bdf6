"""kill -9 at every statement and commit: what was answered stays, what was not can be repeated, nothing twice."""

import contextlib
import os
import secrets
import signal
import traceback
from collections.abc import Callable

import pytest

from services.post_manager.storage import mailbox, outbox, posts, schema, sessions
from services.post_manager.storage.contents import CHUNK
from services.post_manager.storage.database import Database
from services.post_manager.storage.intake import KNOWN, Verdict
from services.post_manager.storage.posts import NewPost, Sender, Terms
from tests.support.databases import prepared
from tests.support.statements import watch_statements
from tests.support.store_rows import Octets, assert_consistent, rows

ALICE = Sender("A" * 40, "alice@alpha.example")
BOB, CAROL = "B" * 40, "D" * 40
TERMS = Terms(quota_posts=100, quota_octets=10**7, max_post=10**6, lifetime=1000)
NOW, KEEP = 1_000_000, 500
BODIES = [Octets(b"x" * (CHUNK + 1)), Octets(b"y" * 10)]
WANTED = [
    NewPost(bytes([1]) * 16, BOB, "bob@beta.example", b"head", 0),
    NewPost(bytes([2]) * 16, CAROL, "carol@gamma.example", b"head", 0),
    NewPost(bytes([3]) * 16, BOB, "bob@beta.example", b"head", 1),
]
IDS = [post.id for post in WANTED]

Work = Callable[[Database], object]
NewUrl = Callable[[], str]


def in_child(url: str, work: Work, dies_at: int | None = None) -> bool:
    """Do something in a process of its own; ``dies_at``: killed at that statement or commit. Returns whether it was."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            try:
                database = Database(url)
                if dies_at is not None:
                    _die(database, dies_at)
                work(database)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0
    return killed


def _die(database: Database, at: int) -> None:
    """Kill this process before its statement number ``at``; commits count twice, before and after."""
    left = at

    def count(*_: object) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    dialect = database._engine.dialect
    commit = dialect.do_commit

    def do_commit(connection: object) -> None:
        count()
        commit(connection)  # type: ignore[arg-type]
        count()

    dialect.do_commit = do_commit  # type: ignore[method-assign]
    watch_statements(count)


def store_all(database: Database) -> list[Verdict]:
    return posts.store(database, ALICE, WANTED, BODIES, TERMS, NOW)


def test_a_store_killed_anywhere_is_all_or_nothing_and_then_exactly_once(new_url: NewUrl) -> None:
    for cut in range(100):
        url = new_url()
        prepared(url).close()
        killed = in_child(url, store_all, cut)
        database = prepared(url)
        assert (there := rows(database, "posts")) in (0, 3)
        assert_consistent(database)
        assert store_all(database) == [KNOWN if there else None] * 3
        assert rows(database, "posts") == 3
        assert_consistent(database)
        listed = mailbox.page(database, BOB, [ALICE.fingerprint], 0, 10).posts
        assert [post.id for post in listed] == [IDS[0], IDS[2]]
        database.close()
        if not killed:
            break
    assert 8 < cut < 99


@pytest.mark.parametrize(
    ("work", "end"),
    [
        (lambda database: mailbox.acknowledge(database, BOB, IDS, NOW, KEEP), schema.FETCHED),
        (lambda database: outbox.withdraw(database, ALICE.fingerprint, [IDS[0], IDS[2]], NOW, KEEP), schema.WITHDRAWN),
        (lambda database: outbox.expire(database, NOW + 1000, KEEP), schema.EXPIRED),
    ],
    ids=["ack", "withdraw", "expire"],
)
def test_the_end_of_posts_killed_anywhere_is_all_or_nothing(new_url: NewUrl, work: Work, end: int) -> None:
    for cut in range(100):
        url = new_url()
        database = prepared(url)
        store_all(database)
        database.close()
        killed = in_child(url, work, cut)
        database = prepared(url)
        assert_consistent(database)
        states = {
            sent.state for sent in outbox.page(database, ALICE.fingerprint, 0, 10, [])[0] if sent.recipient == BOB
        }
        assert states in ({schema.WAITING}, {end})
        work(database)
        sent = outbox.page(database, ALICE.fingerprint, 0, 10, [])[0]
        assert {post.state for post in sent if post.recipient == BOB} == {end}
        assert_consistent(database)
        database.close()
        if not killed:
            break
    assert 8 < cut < 99


def test_an_open_killed_anywhere_leaves_a_whole_session_or_none(new_url: NewUrl) -> None:
    session, cookie = sessions.new_session(BOB, "bob@beta.example", NOW, bytes(16))
    for cut in range(100):
        url = new_url()
        prepared(url).close()
        killed = in_child(url, lambda database: sessions.save(database, session, cookie, NOW), cut)
        database = prepared(url)
        assert rows(database, "sessions") == rows(database, "cookies")
        database.close()
        if not killed:
            break
    assert 4 < cut < 99


def test_making_the_tables_killed_anywhere_can_be_repeated(new_url: NewUrl) -> None:
    for cut in range(0, 200, 5):
        url = new_url()
        killed = in_child(url, schema.prepare, cut)
        database = prepared(url)
        assert store_all(database) == [None] * 3
        database.close()
        if not killed:
            break
    assert 20 < cut < 195


def test_gateways_that_store_the_same_ids_at_once_store_them_once(new_url: NewUrl) -> None:
    url = new_url()
    prepared(url).close()
    wanted = [NewPost(secrets.token_bytes(16), BOB, "bob@beta.example", b"head", 0) for _ in range(20)]
    start_reading, start = os.pipe()

    def gateway(database: Database) -> None:
        os.read(start_reading, 1)
        for post in wanted:
            assert posts.store(database, ALICE, [post], [BODIES[1]], TERMS, NOW)[0] in (None, KNOWN)

    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                gateway(Database(url))
                status = 0
            os._exit(status)
        pids.append(pid)
    os.write(start, b"x" * 4)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    os.close(start)
    os.close(start_reading)
    database = prepared(url)
    assert rows(database, "posts") == 20
    assert rows(database, "contents") == 1
    assert_consistent(database)
    database.close()


def test_processes_that_start_at_once_make_the_tables_once(new_url: NewUrl) -> None:
    url = new_url()
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                prepared(url).close()
                status = 0
            os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    database = prepared(url)
    assert rows(database, "counters") == 1
    assert rows(database, "chores") == len(schema.CHORES)
    database.close()
