"""What the puller must not forget about an account: posts delivered, posts held and why, and posts of its own told of.

One SQLite file for each account. What a method has written when it returns survives a power failure.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from stubmail.errors import TemporaryError

REMEMBER_SECONDS = 120 * 86_400  # four times a post's usual lifetime: a store restored from a backup lists old posts
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
)
SCHEMA_VERSION = len(_SCHEMAS)
_NOTICE = "notice"

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


@dataclass(frozen=True, slots=True)
class OtherSender:
    """Somebody whose mail waits unasked for; ``expected``: the keyring's fingerprint for the address, if it has one."""

    sender: str
    address: str
    count: int
    expected: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand: posts held, posts of strangers, and correspondents who use another key than the keyring's."""

    held: int
    strangers: int
    key_mismatches: int


def delivery_name(key: PostKey) -> str:
    """Return the one-line name under which a post is handed to the mailbox."""
    return f"{key[0].hex()}/{key[1]}"


def notice_name(ids: Iterable[bytes]) -> str:
    """Return the one-line name under which a notice about posts of our own is handed to the mailbox."""
    return f"{_NOTICE}/{','.join(post_id.hex() for post_id in ids)}"


class State:
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
        with self._mutex, _translated(), closing(self._db.cursor()) as cursor:
            query = "SELECT 1 FROM delivered WHERE id = ? AND sender = ?"
            return {key for key in keys if cursor.execute(query, key).fetchone()}

    def record(self, names: Sequence[str], now: int) -> None:
        """Record posts by their ``delivery_name`` as delivered, held no more, and by a ``notice_name`` as told of.

        ``now`` is Unix time.
        """
        halves = [(before, after) for before, _, after in (name.partition("/") for name in names)]
        keys = [(bytes.fromhex(post_id), sender) for post_id, sender in halves if post_id != _NOTICE]
        told = [bytes.fromhex(post_id) for kind, ids in halves if kind == _NOTICE for post_id in ids.split(",")]
        with self._transaction() as db:
            rows = [(*key, now) for key in keys]
            db.executemany("INSERT OR IGNORE INTO delivered (id, sender, time) VALUES (?, ?, ?)", rows)
            db.executemany("DELETE FROM held WHERE id = ? AND sender = ?", keys)
            db.executemany("INSERT OR IGNORE INTO told (id, time) VALUES (?, ?)", [(post_id, now) for post_id in told])

    def forget_before(self, time: int) -> None:
        """Forget posts delivered or told of before ``time`` (Unix time)."""
        with self._transaction() as db:
            db.execute("DELETE FROM delivered WHERE time < ?", (time,))
            db.execute("DELETE FROM told WHERE time < ?", (time,))

    def told(self, ids: Iterable[bytes]) -> set[bytes]:
        """Return those of our own posts that the account was told of within the time that they are remembered."""
        with self._mutex, _translated(), closing(self._db.cursor()) as cursor:
            return {each for each in ids if cursor.execute("SELECT 1 FROM told WHERE id = ?", (each,)).fetchone()}

    def watch(self) -> tuple[float, float]:
        """Return when the own outbox was looked through last, 0 for never, and when it is to be again (Unix time)."""
        with self._mutex, _translated(), closing(self._db.cursor()) as cursor:
            last, due = cursor.execute("SELECT last, due FROM watch").fetchone()
        return last, due

    def set_watch(self, last: float, due: float) -> None:
        """Record when the own outbox was looked through, and when to look again."""
        with self._transaction() as db:
            db.execute("UPDATE watch SET last = ?, due = ?", (last, due))

    def hold(self, post: HeldPost) -> bool:
        """Record a post as held; True when it was not, or for another reason, so that it is told but once."""
        with self._transaction() as db:
            query = "SELECT reason FROM held WHERE id = ? AND sender = ?"
            before = db.execute(query, (post.id, post.sender)).fetchone()
            db.execute(
                "INSERT OR REPLACE INTO held (id, sender, domain, address, size, reason, text, found, expected,"
                " is_key_mismatch, senders, time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                astuple(post),
            )
        return before is None or before[0] != post.reason

    def held(self, domain: str) -> dict[PostKey, HeldPost]:
        """Return what is held of one domain's."""
        with self._mutex, _translated(), closing(self._db.cursor()) as cursor:
            rows = cursor.execute(
                "SELECT id, sender, domain, address, size, reason, text, found, expected,"
                " is_key_mismatch, senders, time FROM held WHERE domain = ?",
                (domain,),
            )
            return {(row[0], row[1]): HeldPost(*row) for row in rows}

    def unhold(self, keys: Iterable[PostKey]) -> None:
        """Drop held posts that the store does not list any more."""
        with self._transaction() as db:
            db.executemany("DELETE FROM held WHERE id = ? AND sender = ?", list(keys))

    def set_others(self, domain: str, others: Sequence[OtherSender], now: int) -> list[OtherSender]:
        """Replace what is known of a domain's other senders; return those with a wrong key that are new."""
        with self._transaction() as db:
            query = "SELECT sender, address, time FROM others WHERE domain = ?"
            before = {(sender, address): time for sender, address, time in db.execute(query, (domain,))}
            db.execute("DELETE FROM others WHERE domain = ?", (domain,))
            rows = [
                (domain, o.sender, o.address, o.count, o.expected, before.get((o.sender, o.address), now))
                for o in others
            ]
            db.executemany("INSERT OR REPLACE INTO others VALUES (?, ?, ?, ?, ?, ?)", rows)
        return [other for other in others if other.expected and (other.sender, other.address) not in before]

    def keep_domains(self, domains: Iterable[str]) -> None:
        """Drop what is held of, and known about, domains where there is no correspondent any more."""
        kept = json.dumps(sorted(domains))
        with self._transaction() as db:
            db.execute("DELETE FROM held WHERE domain NOT IN (SELECT value FROM json_each(?))", (kept,))
            db.execute("DELETE FROM others WHERE domain NOT IN (SELECT value FROM json_each(?))", (kept,))

    def standing(self) -> Standing:
        """Count what is held, what waits from strangers (once for each, whoever's store told), and wrong keys."""
        with self._mutex, _translated(), closing(self._db.cursor()) as cursor:
            held, mismatched = cursor.execute("SELECT count(*), coalesce(sum(is_key_mismatch), 0) FROM held").fetchone()
            strangers = cursor.execute(
                "SELECT coalesce(sum(n), 0) FROM"
                " (SELECT max(count) AS n FROM others WHERE expected = '' GROUP BY sender, address)"
            ).fetchone()[0]
            wrong = cursor.execute("SELECT count(*) FROM others WHERE expected != ''").fetchone()[0]
        return Standing(held, strangers, mismatched + wrong)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # in WAL mode, NORMAL could lose the last commits
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StateError("4.3.5", f"the state file is of version {version}; this program knows {SCHEMA_VERSION}")
        if version < SCHEMA_VERSION:
            steps = "".join(_SCHEMAS[version:])
            self._db.executescript(f"BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

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
