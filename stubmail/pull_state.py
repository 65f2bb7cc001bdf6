"""What the puller keeps about an account and a person may look at and decide on: posts held, and strangers' mail.

One SQLite file for each account, in the directory that ``stubmail.cookies.account_directory`` names. The puller and
the `stubmail` command may have it open at the same time; a decision is carried out by the puller's next pass. What a
method has written when it returns survives a power failure.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from stubmail.errors import TemporaryError

FILE_NAME = "state.sqlite3"
RELEASE, DROP = "release", "drop"
_SCHEMAS = (  # what each version adds to the one before
    """
CREATE TABLE delivered (
    id BLOB NOT NULL, sender TEXT NOT NULL, time INTEGER NOT NULL,
    PRIMARY KEY (id, sender)
) WITHOUT ROWID;
CREATE TABLE held (
    id BLOB NOT NULL, sender TEXT NOT NULL, domain TEXT NOT NULL, address TEXT NOT NULL, size INTEGER NOT NULL,
    reason TEXT NOT NULL, text TEXT NOT NULL, found TEXT NOT NULL, expected TEXT NOT NULL,
    is_key_mismatch INTEGER NOT NULL, senders TEXT NOT NULL, time INTEGER NOT NULL,
    PRIMARY KEY (id, sender)
) WITHOUT ROWID;
CREATE TABLE others (
    domain TEXT NOT NULL, sender TEXT NOT NULL, address TEXT NOT NULL, count INTEGER NOT NULL, expected TEXT NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (domain, sender, address)
) WITHOUT ROWID;
""",
    """
CREATE TABLE told (id BLOB NOT NULL PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE watch (last REAL NOT NULL, due REAL NOT NULL);
INSERT INTO watch VALUES (0, 0);
""",
    """
ALTER TABLE held ADD COLUMN decision TEXT NOT NULL DEFAULT '';
CREATE TABLE warned (cause TEXT NOT NULL PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE refused (address TEXT NOT NULL PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
""",
)
SCHEMA_VERSION = len(_SCHEMAS)

_AT_ONCE = 900  # posts that a query asks about: SQLite took 999 parameters at most for long

PostKey = tuple[bytes, str]  # post id and the sender's fingerprint: another sender cannot use up one's ids


class AccountTrouble(TemporaryError):
    """The account's own disk, maildrop or state does not work now: no sender is to blame, all have to wait."""


class StateError(AccountTrouble):
    """The state file cannot be read or written now; nothing was recorded."""


@dataclass(frozen=True, slots=True)
class HeldPost:
    """A post that is not delivered, and why.

    ``sender`` is the fingerprint that the store gave, ``domain`` the one whose store lists it, ``senders`` the digest
    of that domain's certificates when it was judged; ``found`` and ``expected`` are fingerprints, or empty.
    ``decision`` is what a person wants done with it: RELEASE, DROP, or nothing.
    """

    id: bytes
    sender: str
    domain: str
    address: str
    size: int
    reason: str
    text: str
    found: str
    expected: str
    is_key_mismatch: bool  # in the file 0 or 1
    senders: str
    time: int
    decision: str = ""

    @property
    def key(self) -> PostKey:
        """What tells it from other posts."""
        return self.id, self.sender


@dataclass(frozen=True, slots=True)
class OtherSender:
    """Somebody whose mail waits unasked for; ``expected``: the keyring's fingerprint for the address, if it has one.

    ``time``: since when that is known, in Unix time.
    """

    sender: str
    address: str
    count: int
    expected: str
    time: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand: posts held, posts of strangers, and correspondents who use another key than the keyring's."""

    held: int
    strangers: int
    key_mismatches: int


_HELD = ", ".join(field.name for field in fields(HeldPost))


class PullState:
    """The state file at ``path``, made when it is missing; safe to use from several threads.

    Every method raises StateError when the disk does not let it do its work.
    """

    def __init__(self, path: Path) -> None:
        self._mutex = threading.Lock()
        with _translated():
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        try:
            with _translated():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file; waits for a method that is at work in another thread."""
        with self._mutex:
            self._db.close()

    def delivered(self, keys: Iterable[PostKey]) -> set[PostKey]:
        """Return those of the posts that were delivered within the time that they are remembered."""
        wanted = set(keys)
        ids = [post_id for post_id, _ in wanted]
        found: set[PostKey] = set()
        with self._reading() as cursor:
            for start in range(0, len(ids), _AT_ONCE):
                part = ids[start : start + _AT_ONCE]
                query = f"SELECT id, sender FROM delivered WHERE id IN ({','.join('?' * len(part))})"  # noqa: S608
                found.update(cursor.execute(query, part))
        return found & wanted

    def held(self, domain: str | None = None) -> dict[PostKey, HeldPost]:
        """Return what is held of one domain's, or of all, oldest first."""
        with self._reading() as cursor:
            query = f"SELECT {_HELD} FROM held WHERE ?1 IS NULL OR domain = ?1 ORDER BY time, id"  # noqa: S608
            posts = [HeldPost(*row) for row in cursor.execute(query, (domain,))]
        return {post.key: post for post in posts}

    def decide(self, keys: Iterable[PostKey], decision: str) -> None:
        """Note what is to be done with held posts; empty: nothing, they stay held."""
        with self._transaction() as db:
            rows = [(decision, *key) for key in keys]
            db.executemany("UPDATE held SET decision = ? WHERE id = ? AND sender = ?", rows)

    def decided_domains(self) -> set[str]:
        """Return the domains with held posts about which something was decided: they have to be asked."""
        with self._reading() as cursor:
            return {row[0] for row in cursor.execute("SELECT DISTINCT domain FROM held WHERE decision != ''")}

    def others(self) -> list[OtherSender]:
        """Return who has mail waiting unasked, each once, whoever's store told; those refused are left out."""
        with self._reading() as cursor:
            query = (
                "SELECT sender, address, max(count), expected, min(time) FROM others"
                " WHERE address NOT IN (SELECT address FROM refused) OR expected != ''"
                " GROUP BY sender, address, expected ORDER BY address, sender"
            )
            return [OtherSender(*row) for row in cursor.execute(query)]

    def refuse(self, address: str, now: int) -> None:
        """Hear no more of a stranger's mail; ``address`` is an Address.key."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO refused VALUES (?, ?)", (address, now))

    def unrefuse(self, address: str) -> None:
        """Take back ``refuse``."""
        with self._transaction() as db:
            db.execute("DELETE FROM refused WHERE address = ?", (address,))

    def refused(self) -> set[str]:
        """Return the addresses that were refused."""
        with self._reading() as cursor:
            return {row[0] for row in cursor.execute("SELECT address FROM refused")}

    def standing(self) -> Standing:
        """Count what is held, what waits from strangers (once for each, whoever's store told), and wrong keys."""
        with self._reading() as cursor:
            held, mismatched = cursor.execute("SELECT count(*), coalesce(sum(is_key_mismatch), 0) FROM held").fetchone()
            wrong = cursor.execute("SELECT count(*) FROM others WHERE expected != ''").fetchone()[0]
        return Standing(held, sum(other.count for other in self.others() if not other.expected), mismatched + wrong)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # in WAL mode, NORMAL could lose the last commits
        if self._version() < SCHEMA_VERSION:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for schema in _SCHEMAS[self._version() :]:  # asked again: another process may have been faster
                    for statement in filter(str.strip, schema.split(";")):
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def _version(self) -> int:
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StateError("4.3.5", f"the state file is of version {version}; this program knows {SCHEMA_VERSION}")
        return version

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Cursor]:
        with self._mutex, _translated(), closing(self._db.cursor()) as cursor:
            yield cursor

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._mutex, _translated(), closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    cursor.execute("ROLLBACK")
                raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StateError("4.3.0", f"the state file: {error}") from error
