"""The engine for a PostgreSQL server: bounded in what it waits for, on its feet again when the server is.

Reads are REPEATABLE READ: one state of the database for a whole transaction, as SQLite gives it, and never a conflict.
Writes are READ COMMITTED: whoever meets another transaction at a row waits for its end and goes on from there. What
must not change between a look and a write is locked by the look, in the same order everywhere.
"""

from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from services.post_manager.storage.engines import BUSY_SECONDS, DURABLE, MODE, MOST_CONNECTIONS, READ, RELAXED
from services.post_manager.storage.schema import ENDED, posts_by_end

CONNECT_SECONDS = 5  # for each address of the server
STATEMENT_SECONDS = 30
IDLE_SECONDS = 60  # between two statements of a transaction
SILENT_SECONDS = 30  # until a server that went away without a word is given up
RECONNECT_SECONDS = 3600  # a connection gets no older: the server's name may lead somewhere else by now

AUTOCOMMIT = "AUTOCOMMIT"  # SQLAlchemy's word

_BEGIN = {
    READ: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    DURABLE: "BEGIN ISOLATION LEVEL READ COMMITTED",
    RELAXED: "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit TO off",
}
# For each session, whatever the server's and the role's defaults say.
_SESSION = {
    "synchronous_commit": "on",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "lock_timeout": f"{BUSY_SECONDS:.0f}s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
}
posts_by_end.dialect_options["postgresql"]["where"] = ENDED
_READ_ONLY = "25006"  # the server is, or has become, a standby


class Cursor(psycopg.Cursor[Any]):
    """Asks for results in binary form: octets come as they are, not as twice as many hexadecimal digits."""

    def execute(
        self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Any:
        """As psycopg.Cursor; what has no parameters may be several statements, sent and answered at once."""
        if not params:
            return super().execute(query, prepare=False, binary=False)
        catalogue = "pg_catalog" in query  # it has types that psycopg knows as text only
        return super().execute(query, params, prepare=prepare, binary=not catalogue)


def engine(url: URL, connections: int) -> Engine:
    """Return an engine for a server; ``connections``: how many are asked for, of which it may make fewer."""
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": SILENT_SECONDS * 1000,
        "keepalives_idle": SILENT_SECONDS // 2,
        "keepalives_interval": SILENT_SECONDS // 6,
        "keepalives_count": 3,
        "fallback_application_name": "post_manager",
    }
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    made = create_engine(
        url,
        pool_size=min(connections, MOST_CONNECTIONS),
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        pool_recycle=RECONNECT_SECONDS,
        pool_use_lifo=True,
        hide_parameters=True,  # an error's text gets into the log
        use_native_hstore=False,
        isolation_level=AUTOCOMMIT,  # the driver begins nothing: its BEGIN and our own words would be two round trips
        connect_args={**arguments, "cursor_factory": Cursor, "options": _with(options, url)},
    )
    event.listen(made, "begin", _begin)
    event.listen(made, "handle_error", _leave_standby)
    return made


def _with(options: str, url: URL) -> str:
    """Put the options of the URL behind ours: they win."""
    given = url.query.get("options", ())
    return " ".join([options, given] if isinstance(given, str) else [options, *given])


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == AUTOCOMMIT:  # each statement is a transaction of its own
        return
    statement = _BEGIN[options.get(MODE, DURABLE)]
    try:
        connection.exec_driver_sql(statement)
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        # The server was started anew since this connection was last used. Nothing has been done on it: another one,
        # made now, does as well. To find out beforehand would cost every transaction a round trip.
        connection.exec_driver_sql(statement)


def _leave_standby(context: ExceptionContext) -> None:
    """After a failover a connection may lead to a server that only reads: have it made anew."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True
