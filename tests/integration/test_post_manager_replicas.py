"""Several replicas of a store on one PostgreSQL, each with a notifier: what one of them gives is good at all."""

import contextlib
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert

from services.post_manager.storage import migrations, schema
from services.post_manager.storage.database import Database
from services.post_manager.tokens import Tokens
from stubmail.datagram import Unknown, Waiting, token_from_wire, token_request_to_wire
from tests.support.ports import LOOPBACK
from tests.support.postgresql import Cluster
from tests.support.store import BOUNDARY, URL, Person, Talker, code
from tests.support.store_process import Response, StoreProcess
from tests.support.store_rows import rows
from tests.support.waiting import wait_until

pytestmark = pytest.mark.postgresql

ALICE = Person("alice@alpha.example")
BOB = Person("bob@beta.example")
REPLICAS = 3

_TURN = 126942450221057  # schema.prepare's lock
_WAITING = """\
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"""


@contextlib.contextmanager
def replicas(root: Path, url: str, number: int = REPLICAS, **settings: object) -> Iterator[list[StoreProcess]]:
    """Stores, not started yet, each with a spool directory of its own."""
    stores = []
    for name in map(str, range(number)):
        (root / name).mkdir()
        stores.append(StoreProcess(root / name, [ALICE], database=url, **settings))
    try:
        yield stores
    finally:
        for store in stores:
            store.close()


def start_at_once(url: str, stores: list[StoreProcess]) -> None:
    """Start them so that each finds the same tables, and all go to work on them at the same moment."""
    with ThreadPoolExecutor(len(stores)) as pool, psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SELECT pg_advisory_lock({_TURN})")
        started = [pool.submit(store.start) for store in stores]
        wait_until(lambda: connection.execute(_WAITING).fetchone() == (len(stores),), 30, "all at the door")
        connection.execute(f"SELECT pg_advisory_unlock({_TURN})")
        for future in started:
            future.result(60)


@dataclass(frozen=True)
class Bearer:
    """A replica, for a client that shows a token with each request."""

    store: StoreProcess
    token: str

    def clock(self) -> float:
        """As StoreProcess."""
        return time.time()

    def post(self, body: bytes) -> Response:
        """As StoreProcess."""
        content_type = f"multipart/form-data; boundary={BOUNDARY}"
        return self.store.request("POST", URL, body, Content_Type=content_type, Stub_Token=self.token)


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)


def make_version_1(url: str) -> None:
    """The tables of the first version, from before there were steps: it stands in a table of another form."""
    mark = Table("schema_version", MetaData(), Column("version", Integer, nullable=False))
    with contextlib.closing(Database(url, 1)) as database, database.write() as connection:
        migrations.upgrade(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")
        mark.create(connection)
        connection.execute(insert(mark), {"version": 1})


@pytest.mark.parametrize("old", [False, True], ids=["empty", "version 1"])
def test_replicas_that_start_at_once_make_the_tables_once(tmp_path: Path, empty: str, old: bool) -> None:
    if old:
        make_version_1(empty)
    with replicas(tmp_path, empty) as stores:
        start_at_once(empty, stores)
        alice, bob = stores[0].talker(ALICE), stores[1].talker(BOB)
        posts = [Talker(store, ALICE, alice.session).keep(BOB, b"x")[0] for store in stores]
        everywhere = [Talker(store, BOB, bob.session) for store in stores]
        for talker in everywhere:
            assert [post["id"] for post in talker.waiting(ALICE)["posts"]] == [post_id.hex() for post_id in posts]
        everywhere[2].ack(*posts)
        assert everywhere[0].waiting(ALICE)["posts"] == []
        assert [store.stop() for store in stores] == [0] * REPLICAS
        for store in stores:
            for unwanted in ("unavailable", "Traceback", "died"):
                assert unwanted not in store.text()
    with contextlib.closing(Database(empty, 1)) as database:
        schema.check(database)
        assert (rows(database, "keys"), rows(database, "chores")) == (1, len(schema.CHORES))


@pytest.fixture
def two(tmp_path: Path, postgresql_url: str) -> Iterator[list[StoreProcess]]:
    """Two replicas that demand tokens, and run."""
    with replicas(tmp_path, postgresql_url, 2, require_udp=True, token_exempt=[]) as stores:
        with ThreadPoolExecutor(len(stores)) as pool:
            for future in [pool.submit(store.start, ready=False) for store in stores]:
                future.result(60)
        for store in stores:
            wait_until(store.ready, 30, "readiness")
        yield stores


def token_of(store: StoreProcess) -> str:
    """Ask one replica's notifier for a token."""
    nonce = secrets.token_bytes(16)
    answer = store.datagram(token_request_to_wire(nonce))
    assert answer is not None
    return token_from_wire(answer, nonce).octets.hex()


def test_tokens_and_cookies_of_one_replica_are_good_at_the_other(two: list[StoreProcess]) -> None:
    first, second = two
    bob = Talker(first, BOB)  # type: ignore[arg-type]  # what it needs of a store
    assert code(bob.open()) == "token"
    for giver, store in ((first, second), (second, first)):
        talker = Talker(Bearer(store, token_of(giver)), BOB)  # type: ignore[arg-type]
        assert talker.open().status_code == 200
        for replica in two:
            assert replica.check(talker) == Waiting(0, 0)
    stolen = Tokens(secrets.token_bytes(32)).give(LOOPBACK, int(time.time())).octets.hex()
    for store in two:
        refused = Talker(Bearer(store, stolen), BOB).open()  # type: ignore[arg-type]
        assert code(refused) == "token"


def test_cookies_flushed_at_one_replica_are_unknown_to_all_notifiers(two: list[StoreProcess]) -> None:
    talkers = [Talker(Bearer(store, token_of(store)), BOB) for store in two]  # type: ignore[arg-type]
    for talker in talkers:
        assert talker.open().status_code == 200
        assert {str(store.check(talker)) for store in two} == {str(Waiting(0, 0))}
    assert two[0].run("cookies", "flush", BOB.address).stdout == b"2 cookies deleted\n"
    for store in two:
        assert [store.check(talker) for talker in talkers] == [Unknown(), Unknown()]
    assert talkers[1].open().status_code == 200  # no restart: the next cookie is good at both
    assert [store.check(talkers[1]) for store in two] == [Waiting(0, 0)] * 2
