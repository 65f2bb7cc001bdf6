"""What is PostgreSQL's own: its URL and its password, transactions as stated, and words for what cannot be reached."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import event, insert

from services.post_manager import service
from services.post_manager.settings import PostManager
from services.post_manager.storage import schema
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import MOST_CONNECTIONS, describe, parse_url
from services.post_manager.storage.errors import Conflict, StorageDamaged, StorageError, StorageFull
from stubmail.errors import Exit
from tests.support.ports import LOOPBACK, free_port
from tests.support.postgresql import Cluster

SECRET = "se%3Cret"
SECRETS = (SECRET, "se<ret")


@pytest.fixture
def database(postgresql_url: str) -> Iterator[Database]:
    with contextlib.closing(Database(postgresql_url)) as database:
        yield database


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_servers_url_means_psycopg_3(scheme: str) -> None:
    assert parse_url(f"{scheme}://u:p@db.example/store").drivername == "postgresql+psycopg"


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "mysql", "oracle", "sqlite+pysqlcipher"])
def test_other_databases_and_drivers_are_not_known(scheme: str) -> None:
    with pytest.raises(ValueError, match="is not known here"):
        parse_url(f"{scheme}://u:{SECRET}@db.example/store")


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:se@h:se<ret@h/x", "nonsense se<ret", "postgresql://u:x@h:se<ret/x", "postgresql://u:x@se..<ret/x"],
)
def test_a_url_that_cannot_be_parsed_is_not_repeated(tmp_path: Path, url: str) -> None:
    section = PostManager(accounts=tmp_path, spool=tmp_path, database=url)
    with pytest.raises(Exit) as caught:
        service.open_database(section, 1)
    assert "se<ret" not in caught.value.text
    assert "%XX" in caught.value.text


def test_a_database_is_named_without_its_password() -> None:
    assert describe(f"postgresql://u:{SECRET}@db.example:5433/x") == "database 'x' at db.example:5433"
    assert describe(f"postgresql://u@/x?host=a&host=b&password={SECRET}") == "database 'x' at a, b"
    assert describe("sqlite:////var/spool/stubmail/store.db") == "/var/spool/stubmail/store.db"


@pytest.mark.postgresql
@pytest.mark.parametrize("wrong", ["port", "host", "role", "password", "database"])
def test_what_cannot_be_reached_is_said_without_the_password(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    caplog.set_level(logging.DEBUG)
    port = free_port()
    url, words = {
        "port": (f"postgresql://stubmail:{SECRET}@{LOOPBACK}:{port}/store", (f"{LOOPBACK}", f"{port}", "refused")),
        "host": (f"postgresql://stubmail:{SECRET}@/store?host=/nowhere", ("/nowhere", "No such file")),
        "role": (cluster.url("postgres", "nobody", SECRET), ("password authentication failed", "nobody")),
        "password": (cluster.url("postgres", password=SECRET), ("password authentication failed", "stubmail")),
        "database": (cluster.url("nosuchdatabase"), ("nosuchdatabase", "does not exist")),
    }[wrong]
    section = PostManager(accounts=tmp_path, spool=tmp_path, database=url)
    with pytest.raises(Exit) as caught:
        service.open_database(section, 1, prepare=True)
    for word in words:
        assert word in caught.value.text
    for secret in (*SECRETS, cluster.password):
        assert secret not in caught.value.text
        assert secret not in caplog.text


@pytest.mark.postgresql
def test_transactions_are_what_they_say_whatever_the_servers_defaults_are(
    cluster: Cluster, postgresql_url: str
) -> None:
    name = sql.Identifier(postgresql_url.rpartition("/")[2])
    for setting in ("synchronous_commit = off", "default_transaction_isolation = serializable", "lock_timeout = 0"):
        cluster.execute(sql.SQL("ALTER DATABASE {} SET " + setting).format(name))

    def shows(database: Database, durable: bool | None) -> list[str]:
        transaction = database.read() if durable is None else database.write(durable=durable)
        names = "synchronous_commit", "transaction_isolation", "transaction_read_only", "lock_timeout"
        with transaction as connection:
            return [str(connection.exec_driver_sql(f"SHOW {name}").scalar_one()) for name in names]

    with contextlib.closing(Database(postgresql_url, 1)) as database:
        for _ in range(2):
            assert shows(database, True) == ["on", "read committed", "off", "10s"]
            assert shows(database, False) == ["off", "read committed", "off", "10s"]
            assert shows(database, None) == ["on", "repeatable read", "on", "10s"]
        with database.watch() as connection:
            assert connection.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "serializable"
            count = (
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'post_manager' AND state LIKE '%trans%'"
            )
            assert cluster.execute(sql.SQL(count)) == [(0,)]  # it keeps no transaction open
        assert shows(database, True) == ["on", "read committed", "off", "10s"]


@pytest.mark.postgresql
def test_what_the_url_says_about_the_connection_wins(postgresql_url: str) -> None:
    url = f"{postgresql_url}?application_name=replica7&options=-c%20lock_timeout%3D3s"
    with contextlib.closing(Database(url, 1)) as database, database.read() as connection:
        assert connection.exec_driver_sql("SHOW application_name").scalar_one() == "replica7"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "3s"
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "30s"


@pytest.mark.postgresql
def test_a_transaction_costs_a_begin_and_a_commit_beside_its_own_statements(database: Database) -> None:
    with database.write(durable=False):
        pass
    statements: list[str] = []
    event.listen(database._engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    with database.write(durable=False) as connection:
        connection.execute(schema.chores.select())
    assert [statement.split()[0] for statement in statements] == ["BEGIN", "SELECT"]


@pytest.mark.postgresql
def test_connections_are_few_however_many_threads_there_are(postgresql_url: str) -> None:
    with contextlib.closing(Database(postgresql_url, 100)) as database, contextlib.ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            stack.enter_context(database.read())
        assert database._engine.pool.checkedout() == MOST_CONNECTIONS  # type: ignore[attr-defined]
        assert database._engine.pool._max_overflow == 0  # type: ignore[attr-defined]


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("53100", StorageFull),
        ("XX001", StorageDamaged),
        ("XX002", StorageDamaged),
        ("XX000", StorageError),
        ("40001", Conflict),
        ("40P01", Conflict),
        ("55P03", StorageError),
        ("57014", StorageError),
    ],
)
def test_the_servers_errors_are_told_apart(database: Database, state: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught, database.write() as connection:
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE 'so it is' USING ERRCODE = '{state}'; END $$")
    assert type(caught.value) is error
    assert error is Conflict or "so it is" in str(caught.value)


@pytest.mark.postgresql
def test_an_error_shows_no_row(database: Database) -> None:
    row = {"id": b"i" * 16, "secret": None, "fingerprint": "F" * 40, "address": "topsecret", "expires": 1}
    with pytest.raises(Conflict) as caught, database.write() as connection:
        connection.execute(insert(schema.sessions), row)
    assert "topsecret" not in str(caught.value)
    with pytest.raises(StorageError) as failed, database.write() as connection:
        connection.execute(insert(schema.sessions), row | {"secret": b"topsecret", "fingerprint": "F" * 65})
    assert "too long" in str(failed.value)
    assert "topsecret" not in str(failed.value)


@pytest.mark.postgresql
def test_a_standby_is_left_for_the_server_that_writes(database: Database) -> None:
    with pytest.raises(StorageError), database.write() as connection:
        connection.exec_driver_sql("SET LOCAL transaction_read_only TO on")
        before = connection.connection.driver_connection
        connection.execute(schema.chores.update().values(due=1))
    assert isinstance(before, psycopg.Connection)
    assert before.closed
    with database.write() as connection:
        assert connection.execute(schema.chores.update().values(due=1)).rowcount == len(schema.CHORES)
