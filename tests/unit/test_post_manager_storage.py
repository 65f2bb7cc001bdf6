"""The store's database: posts are kept exactly once, within quotas, and sums never drift from what they sum up."""

import contextlib
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from services.post_manager.storage import contents, intake, mailbox, nonces, outbox, posts, schema, serials, sessions
from services.post_manager.storage.contents import CHUNK
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.errors import Conflict, StorageDamaged, StorageError, StorageFull
from services.post_manager.storage.intake import KNOWN, Verdict, Wanted
from services.post_manager.storage.nonces import Nonce, Replayed
from services.post_manager.storage.posts import NewPost, Refused, Sender, Terms
from services.post_manager.storage.statements import fetch, insert_new
from services.post_manager.storage.watch import Known, Watch
from tests.support.databases import full_disk, prepared
from tests.support.statements import watched_statements
from tests.support.store_rows import Octets, assert_consistent, rows

ALICE = Sender("A" * 40, "alice@alpha.example")
AMY = Sender("C" * 40, "amy@alpha.example")
BOB, CAROL = "B" * 40, "D" * 64
TERMS = Terms(quota_posts=100, quota_octets=10**7, max_post=10**6, lifetime=1000)
NOW, KEEP = 1_000_000, 500


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    """A store's database in a file: for what is SQLite's own."""
    with contextlib.closing(prepared(sqlite_url(tmp_path / "store.db"))) as database:
        yield database


def new(recipient: str = BOB, body: int = 0, post_id: bytes | None = None) -> NewPost:
    return NewPost(post_id or secrets.token_bytes(16), recipient, "bob@beta.example", b"head", body)


def keep(database: Database, post: NewPost, body: bytes = b"body", sender: Sender = ALICE, terms: Terms = TERMS) -> str:
    [outcome] = posts.store(database, sender, [post], [Octets(body)], terms, NOW)
    return said(outcome)


def said(verdict: Verdict) -> str:
    return verdict.code if isinstance(verdict, Refused) else verdict or "stored"


def read(database: Database, recipient: str, post_id: bytes) -> bytes | None:
    stored = mailbox.look_up(database, recipient, [post_id]).get(post_id)
    if stored is None:
        return None
    with database.read() as connection:
        numbers = range(-(-stored.body_size // CHUNK))
        return stored.head + b"".join(
            contents.read_chunk(connection, stored.content, number) or b"" for number in numbers
        )


def test_a_stored_post_is_listed_and_read_by_its_recipient_alone(database: Database) -> None:
    post = new()
    assert keep(database, post, b"x" * (2 * CHUNK + 5)) == "stored"
    [listed] = mailbox.page(database, BOB, [ALICE.fingerprint], 0, 10).posts
    assert (listed.id, listed.sender, listed.address, listed.size, listed.stored) == (
        post.id,
        ALICE.fingerprint,
        ALICE.address,
        4 + 2 * CHUNK + 5,
        NOW,
    )
    assert read(database, BOB, post.id) == b"head" + b"x" * (2 * CHUNK + 5)
    assert read(database, CAROL, post.id) is None
    assert_consistent(database)


@pytest.mark.parametrize("end", ["waiting", "fetched", "withdrawn", "expired"])
def test_storing_an_id_again_changes_nothing_whatever_became_of_it(database: Database, end: str) -> None:
    post = new()
    keep(database, post)
    if end == "fetched":
        mailbox.acknowledge(database, BOB, [post.id], NOW, KEEP)
    elif end == "withdrawn":
        outbox.withdraw(database, ALICE.fingerprint, [post.id], NOW, KEEP)
    elif end == "expired":
        outbox.expire(database, NOW + TERMS.lifetime, KEEP)
    assert keep(database, post, b"sealed anew") == "known"
    [sent], more = outbox.page(database, ALICE.fingerprint, 0, 10, [])
    assert (schema.STATE_NAMES[sent.state], more) == (end, False)
    assert rows(database, "contents") == (end == "waiting")
    assert_consistent(database)


def test_an_id_that_belongs_to_another_post_is_refused(database: Database) -> None:
    post = new()
    keep(database, post)
    assert keep(database, post, sender=AMY) == "id"
    assert keep(database, new(CAROL, post_id=post.id)) == "id"
    assert rows(database, "posts") == 1
    assert_consistent(database)


def test_a_body_for_fifty_recipients_is_stored_once(database: Database) -> None:
    body = Octets(secrets.token_bytes(500_000))
    everybody = [new(f"{number:040X}") for number in range(50)]
    assert posts.store(database, ALICE, everybody, [body], TERMS, NOW) == [None] * 50
    assert rows(database, "contents") == 1
    with database.read() as connection:
        assert connection.execute(select(schema.contents.c.refs)).scalar_one() == 50
    # … also when the same body comes in another request, but not from another sender
    assert posts.store(database, ALICE, [new(CAROL)], [body], TERMS, NOW) == [None]
    assert posts.store(database, AMY, [new(CAROL)], [body], TERMS, NOW) == [None]
    assert rows(database, "contents") == 2
    for post in everybody:
        mailbox.acknowledge(database, post.recipient, [post.id], NOW, KEEP)
    assert rows(database, "contents") == 2
    assert_consistent(database)


def test_quotas_count_what_waits(database: Database) -> None:
    terms = Terms(quota_posts=2, quota_octets=1000, max_post=500, lifetime=1000)
    first, second = new(), new()
    assert keep(database, first, b"x" * 497, terms=terms) == "too-large"
    assert keep(database, first, b"x" * 496, terms=terms) == "stored"
    assert keep(database, second, b"y" * 496, terms=terms) == "stored"
    assert keep(database, new(), b"z", terms=terms) == "quota"
    mailbox.acknowledge(database, BOB, [first.id], NOW, KEEP)
    assert keep(database, new(), b"z" * 496, terms=terms) == "stored"
    outbox.withdraw(database, ALICE.fingerprint, [second.id], NOW, KEEP)
    assert keep(database, new(), b"z" * 496, terms=terms) == "stored"  # the body is there already
    assert_consistent(database)


def test_octets_over_quota_are_refused_post_by_post(database: Database) -> None:
    terms = Terms(quota_posts=10, quota_octets=1000, max_post=900, lifetime=1000)
    bodies = [Octets(b"x" * 600), Octets(b"y" * 600)]
    outcomes = posts.store(database, ALICE, [new(), new(body=1), new(CAROL)], bodies, terms, NOW)
    assert [outcome and outcome.code for outcome in outcomes] == [None, "quota", None]
    assert isinstance(outcomes[1], Refused)
    assert "of 1000 octets that may wait, 604 wait already" in outcomes[1].message
    assert rows(database, "contents") == 1
    assert_consistent(database)


def test_serials_grow_and_are_never_used_twice(database: Database) -> None:
    for _ in range(3):
        post = new()
        keep(database, post)
        mailbox.acknowledge(database, BOB, [post.id], NOW, 0)
        outbox.forget(database, NOW + 1)
    assert rows(database, "posts") == 0
    keep(database, new())
    with database.read() as connection:
        assert mailbox.waiting(connection, BOB) == (1, serials.floor(NOW) + 4)


def test_serials_go_on_from_the_time_when_an_older_state_of_the_database_comes_back(database: Database) -> None:
    with database.write() as connection:
        last = serials.take(connection, 5, NOW)
        connection.execute(update(schema.counters).values(value=0))  # as a copied file or a lagging replica would
        assert serials.take(connection, 1, NOW + 1) > last + 4
        much_later = serials.take(connection, 1, 2**42)
        assert much_later < 2**63
        assert serials.take(connection, 2, NOW) == much_later + 1  # a clock that goes back changes nothing


def test_a_page_has_the_senders_asked_for_and_names_the_others(database: Database) -> None:
    mine = [new() for _ in range(3)]
    posts.store(database, ALICE, mine, [Octets(b"body")], TERMS, NOW)
    keep(database, new(), sender=AMY)
    keep(database, new(CAROL))
    listing = mailbox.page(database, BOB, [ALICE.fingerprint, "F" * 40], 0, 2)
    assert [post.id for post in listing.posts] == [post.id for post in mine[:2]]
    assert (listing.more, listing.serial) == (True, serials.floor(NOW) + 4)
    assert [(other.sender, other.address, other.posts) for other in listing.others] == [
        (AMY.fingerprint, AMY.address, 1)
    ]
    rest = mailbox.page(database, BOB, [ALICE.fingerprint], listing.posts[-1].serial, 2)
    assert [post.id for post in rest.posts] == [mine[2].id]
    assert not rest.more
    nothing = mailbox.page(database, "E" * 40, [ALICE.fingerprint], 0, 2)
    assert (nothing.posts, nothing.serial, nothing.others) == ((), 0, ())


def test_others_are_a_hundred_at_most(database: Database) -> None:
    for number in range(101):
        keep(database, new(), sender=Sender(f"{number:040X}", "x@alpha.example"))
    assert len(mailbox.page(database, BOB, [], 0, 1).others) == mailbox.MAX_OTHERS


def test_only_the_recipient_acknowledges_and_only_the_sender_withdraws(database: Database) -> None:
    post = new()
    keep(database, post)
    assert mailbox.acknowledge(database, CAROL, [post.id], NOW, KEEP) == []
    assert outbox.withdraw(database, AMY.fingerprint, [post.id], NOW, KEEP) == ({}, 0)
    assert mailbox.acknowledge(database, BOB, [post.id, secrets.token_bytes(16)], NOW + 5, KEEP) == [post.id]
    assert mailbox.acknowledge(database, BOB, [post.id], NOW + 6, KEEP) == []
    [sent], _ = outbox.page(database, ALICE.fingerprint, 0, 10, [])
    assert (sent.state, sent.changed) == (schema.FETCHED, NOW + 5)
    assert outbox.withdraw(database, ALICE.fingerprint, [post.id], NOW + 7, KEEP) == ({post.id: schema.FETCHED}, 0)
    assert_consistent(database)


def test_a_withdrawn_post_says_so_to_its_recipient(database: Database) -> None:
    post = new()
    keep(database, post)
    assert outbox.withdraw(database, ALICE.fingerprint, [post.id], NOW, KEEP) == ({post.id: schema.WITHDRAWN}, 1)
    assert mailbox.look_up(database, BOB, [post.id]) == {post.id: None}
    assert mailbox.look_up(database, CAROL, [post.id]) == {}
    assert mailbox.page(database, BOB, [ALICE.fingerprint], 0, 10).posts == ()


def test_posts_expire_and_their_tombstones_go_when_they_may(database: Database) -> None:
    post = new()
    keep(database, post)
    assert outbox.expire(database, NOW + TERMS.lifetime - 1, KEEP) == []
    assert outbox.expire(database, NOW + TERMS.lifetime, KEEP) == [post.id]
    assert mailbox.look_up(database, BOB, [post.id]) == {}
    assert outbox.forget(database, NOW + TERMS.lifetime + KEEP - 1) == 0
    assert outbox.forget(database, NOW + TERMS.lifetime + KEEP) == 1
    assert rows(database, "posts") == 0
    assert_consistent(database)


def test_the_outbox_is_paged_and_filtered(database: Database) -> None:
    mine = [new() for _ in range(4)]
    posts.store(database, ALICE, mine, [Octets(b"body")], TERMS, NOW)
    mailbox.acknowledge(database, BOB, [mine[1].id, mine[3].id], NOW, KEEP)
    page, more = outbox.page(database, ALICE.fingerprint, 0, 3, [])
    assert ([sent.id for sent in page], more) == ([post.id for post in mine[:3]], True)
    page, more = outbox.page(database, ALICE.fingerprint, 0, 3, [schema.FETCHED])
    assert ([sent.id for sent in page], more) == ([mine[1].id, mine[3].id], False)
    assert outbox.page(database, AMY.fingerprint, 0, 3, []) == ((), False)


_COUNT = insert_new(schema.counters)


class _Cut(Exception):
    """The process dies here."""


def test_a_store_cut_off_at_any_statement_leaves_nothing_and_can_be_repeated(database: Database) -> None:
    wanted = [new(), new(CAROL), new(body=1)]
    bodies = [Octets(b"x" * (CHUNK + 1)), Octets(b"y")]
    cut = 0
    while True:
        left = cut

        def count(*_: object) -> None:
            nonlocal left
            if left == 0:
                raise _Cut
            left -= 1

        with contextlib.suppress(_Cut), watched_statements(count):
            posts.store(database, ALICE, wanted, bodies, TERMS, NOW)
            break
        assert rows(database, "posts") == rows(database, "contents") == rows(database, "chunks") == 0
        cut += 1
    assert cut > 8  # it was cut at every statement that there is
    assert rows(database, "posts") == 3
    assert posts.store(database, ALICE, wanted, bodies, TERMS, NOW) == [KNOWN] * 3
    assert rows(database, "posts") == 3
    assert_consistent(database)


def test_a_transaction_that_meets_another_is_made_again(database: Database) -> None:
    attempts = []

    def work(connection: object) -> int:
        attempts.append(connection)
        if len(attempts) < 3:
            raise Conflict
        return 7

    assert database.transact(work) == 7
    with pytest.raises(Conflict), database.write() as connection:
        connection.execute(insert(schema.counters), {"name": schema.SERIAL, "value": 1})


def test_a_transaction_under_way_stays_whole_when_the_file_is_closed(tmp_path: Path) -> None:
    database = prepared(sqlite_url(tmp_path / "store.db"))
    closing = threading.Thread(target=database.close)
    with pytest.raises(_Cut), database.write() as connection:
        fetch(connection, _COUNT, [("before", 1)])
        closing.start()
        closing.join(0.5)  # it may wait for us, or not
        fetch(connection, _COUNT, [("behind", 1)])
        raise _Cut
    closing.join(30)
    assert not closing.is_alive()
    database = prepared(sqlite_url(tmp_path / "store.db"))
    with database.read() as connection:
        assert not connection.execute(select(schema.counters).where(schema.counters.c.name != schema.SERIAL)).all()
    database.close()


def test_sessions_end_and_the_oldest_give_way(database: Database) -> None:
    opened = []
    for second in range(sessions.SESSIONS_EACH + 1):
        session, cookie = sessions.new_session(BOB, "bob@beta.example", NOW + second, bytes([second]) * 16)
        sessions.save(database, session, cookie, NOW + second)
        opened.append((session, cookie))
    with database.read() as connection:
        assert sessions.find_session(connection, opened[0][0].id, NOW) is None
        assert sessions.find_session(connection, opened[1][0].id, NOW) == opened[1][0]
        assert sessions.find_session(connection, opened[1][0].id, opened[1][0].expires) is None
    gone, kept = (cookie for _, cookie in opened[:2])
    with database.watch() as watched:
        watch = Watch(watched)
        state = watch.look()
        assert state.cookies([gone.id, kept.id], NOW) == {kept.id: Known(kept.secret, NOW + 1, 0, 0)}
        assert state.cookies([kept.id], NOW + 1 + sessions.COOKIE_SECONDS) == {}
        sessions.touch_cookies(database, [kept.id], NOW + 100)
        state = watch.look()
        assert state.cookies([kept.id], NOW + 1 + sessions.COOKIE_SECONDS)


def test_a_nonce_is_good_once_for_each_client(database: Database) -> None:
    octets = secrets.token_bytes(16)
    bobs, carols = Nonce(BOB, octets, NOW), Nonce(CAROL, octets, NOW)
    assert [nonces.remember(database, nonce) for nonce in (bobs, bobs, carols)] == [True, False, True]
    with database.read() as connection:
        assert nonces.seen(connection, bobs)
        assert not nonces.seen(connection, Nonce(BOB, secrets.token_bytes(16), NOW))
    assert sessions.forget(database, schema.nonces, NOW) == 0
    assert sessions.forget(database, schema.nonces, NOW + 1) == 2
    assert nonces.remember(database, bobs)


def test_a_nonce_that_comes_with_work_is_used_up_with_it_or_not_at_all(database: Database) -> None:
    post, nonce = new(), Nonce(BOB, secrets.token_bytes(16), NOW)

    def store(post: NewPost, nonce: Nonce) -> list[posts.Refused | None]:
        return posts.store(database, ALICE, [post], [Octets(b"body")], TERMS, NOW, nonce)

    assert store(post, nonce) == [None]
    with pytest.raises(Replayed):
        store(new(), nonce)
    with pytest.raises(Replayed):
        mailbox.acknowledge(database, BOB, [post.id], NOW, KEEP, nonce)
    with pytest.raises(Replayed):
        outbox.withdraw(database, ALICE.fingerprint, [post.id], NOW, KEEP, nonce)
    assert rows(database, "posts") == 1
    assert mailbox.look_up(database, BOB, [post.id])[post.id] is not None

    unused = Nonce(BOB, secrets.token_bytes(16), NOW)
    with pytest.raises(StorageFull), database.write() as connection:
        assert nonces.use(connection, [unused]) == [True]
        raise StorageFull("no room")
    assert nonces.remember(database, unused)


def test_requests_stored_together_are_judged_one_after_the_other(database: Database) -> None:
    terms = Terms(quota_posts=3, quota_octets=10_000, max_post=5_000, lifetime=1000)
    nonce, shared, twice = Nonce(BOB, secrets.token_bytes(16), NOW), Octets(b"x" * 1000), new()
    own = Octets(b"y" * 1000)

    def wanted(*new: NewPost, sender: Sender = ALICE, nonce: Nonce | None = None, body: Octets = shared) -> Wanted:
        return Wanted(sender, new, [body], terms, NOW, nonce)

    requests = [
        wanted(new(), nonce=nonce),
        wanted(new(), nonce=nonce),  # a replay
        wanted(twice),
        wanted(twice),  # another gateway was as fast
        wanted(twice, sender=AMY),  # another's id
        wanted(new(CAROL), sender=AMY, body=own),
        wanted(new(), new()),  # over quota, but for the first
    ]
    with database.write() as connection:
        verdicts = intake.store(connection, requests)
    assert verdicts[1] is None
    answers = [[said(verdict) for verdict in found] for found in verdicts if found is not None]
    assert answers == [["stored"], ["stored"], ["known"], ["id"], ["stored"], ["stored", "quota"]]
    assert (rows(database, "posts"), rows(database, "contents")) == (4, 2)
    assert_consistent(database)
    with database.write() as connection:  # and once more, when the bodies are there
        assert intake.store(connection, [wanted(new(CAROL), sender=AMY), wanted(new(CAROL), sender=AMY, body=own)])
    assert rows(database, "contents") == 3
    assert_consistent(database)


def test_a_full_database_is_told_from_a_broken_one(database: Database) -> None:
    post = new()
    with full_disk(database):
        with pytest.raises(StorageFull):
            keep(database, post, b"x" * 500_000)
        assert rows(database, "posts") == rows(database, "chunks") == 0
    assert keep(database, post, b"x" * 500_000) == "stored"


def test_the_file_is_private_and_durable(tmp_path: Path, file: Database) -> None:
    keep(file, new())
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {f"store.db{suffix}": 0o600 for suffix in ("", "-wal", "-shm", "-turn")}
    with file.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    with file.write(durable=False) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 1
    with file.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


def test_a_damaged_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database " * 1000)
    before = path.read_bytes()
    database = Database(sqlite_url(path))
    with pytest.raises(StorageDamaged):
        schema.prepare(database)
    with pytest.raises(StorageDamaged):
        schema.check(database)
    database.close()
    assert path.read_bytes() == before


def test_a_watch_sees_that_something_changed(database: Database) -> None:
    session, cookie = sessions.new_session(BOB, "bob@beta.example", NOW, bytes(16))
    sessions.save(database, session, cookie, NOW)
    with database.watch() as connection:
        watch = Watch(connection)
        first = watch.look()
        assert first.cookies([cookie.id, bytes(15) + b"x"], NOW) == {cookie.id: Known(cookie.secret, NOW, 0, 0)}
        second = watch.look()
        assert second.version == first.version
        keep(database, new())
        third = watch.look()
        assert third.version != first.version
        [known] = third.cookies([cookie.id], NOW).values()
        assert (known.posts, known.serial) == (1, serials.floor(NOW) + 1)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="needs a file"):
        Database(url)


def test_a_database_that_cannot_be_opened_is_an_error_of_ours(tmp_path: Path, database: Database) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        Database(sqlite_url(tmp_path / "file" / "store.db"))
    with pytest.raises(StorageError), database.write() as connection:
        connection.exec_driver_sql("SELECT * FROM nowhere")
