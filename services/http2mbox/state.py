"""What the puller must not forget about an account: posts delivered, posts held, causes and posts of its own told of.

The file, and what of it a person may decide on, are those of stubmail.pull_state.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields

from stubmail.pull_state import (
    AccountTrouble,
    HeldPost,
    OtherSender,
    PostKey,
    PullState,
    Standing,
    StateError,
)

REMEMBER_SECONDS = 120 * 86_400  # four times a post's usual lifetime: a store restored from a backup lists old posts
_AT_ONCE = 250  # posts: a statement for each would let other threads go first each time
_NOTICE = "notice"
_CAUSE = "cause"

_COLUMNS = [field.name for field in fields(HeldPost) if field.name != "decision"]
_HOLD = (  # a person's decision that comes while a pass is under way stays
    f"INSERT INTO held ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
    " ON CONFLICT (id, sender) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])
)

__all__ = ["AccountTrouble", "HeldPost", "OtherSender", "PostKey", "Standing", "State", "StateError"]


def delivery_name(key: PostKey) -> str:
    """Return the one-line name under which a post is handed to the maildrop."""
    return f"{key[0].hex()}/{key[1]}"


def notice_name(ids: Iterable[bytes]) -> str:
    """Return the one-line name under which a notice about posts of our own is handed to the maildrop."""
    return f"{_NOTICE}/{','.join(post_id.hex() for post_id in ids)}"


def cause_name(cause: str) -> str:
    """Return the one-line name under which a notice about posts held for one cause is handed to the maildrop."""
    return f"{_CAUSE}/{cause}"


class State(PullState):
    """The state file as the puller uses it. Every method raises StateError as those of PullState do."""

    def record(self, names: Sequence[str], now: int) -> None:
        """Record posts by their ``delivery_name`` as delivered, held no more, and what other names stand for as told.

        ``now`` is Unix time.
        """
        halves = [(before, after) for before, _, after in (name.partition("/") for name in names)]
        keys = [(bytes.fromhex(post_id), sender) for post_id, sender in halves if post_id not in (_NOTICE, _CAUSE)]
        told = [bytes.fromhex(post_id) for kind, ids in halves if kind == _NOTICE for post_id in ids.split(",")]
        causes = [(cause, now) for kind, cause in halves if kind == _CAUSE]
        keys.sort()  # neighbours in the file are written at the same time
        with self._transaction() as db:
            holds = db.execute("SELECT 1 FROM held LIMIT 1").fetchone() is not None
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                values = ", ".join(["(?, ?)"] * len(part))
                columns = [column for key in part for column in key]
                query = f"INSERT OR IGNORE INTO delivered SELECT column1, column2, ? FROM (VALUES {values})"  # noqa: S608
                db.execute(query, [now, *columns])
                if not holds:
                    continue
                ids = ", ".join("?" * len(part))  # by which the rows are found; without, all would be looked through
                query = f"DELETE FROM held WHERE id IN ({ids}) AND (id, sender) IN (VALUES {values})"  # noqa: S608
                db.execute(query, [*(post_id for post_id, _ in part), *columns])
            db.executemany("INSERT OR IGNORE INTO told (id, time) VALUES (?, ?)", [(post_id, now) for post_id in told])
            db.executemany("INSERT OR REPLACE INTO warned (cause, time) VALUES (?, ?)", causes)

    def forget_before(self, time: int) -> None:
        """Forget posts delivered or told of before ``time`` (Unix time)."""
        with self._transaction() as db:
            db.execute("DELETE FROM delivered WHERE time < ?", (time,))
            db.execute("DELETE FROM told WHERE time < ?", (time,))
            db.execute("DELETE FROM warned WHERE time < ?", (time,))

    def told(self, ids: Iterable[bytes]) -> set[bytes]:
        """Return those of our own posts that the account was told of within the time that they are remembered."""
        with self._reading() as cursor:
            return {each for each in ids if cursor.execute("SELECT 1 FROM told WHERE id = ?", (each,)).fetchone()}

    def warned(self, causes: Iterable[str], since: float) -> set[str]:
        """Return those of the causes that the account was told of at ``since`` or later (Unix time)."""
        with self._reading() as cursor:
            query = "SELECT 1 FROM warned WHERE cause = ? AND time >= ?"
            return {cause for cause in causes if cursor.execute(query, (cause, since)).fetchone()}

    def watch(self) -> tuple[float, float]:
        """Return when the own outbox was looked through last, 0 for never, and when it is to be again (Unix time)."""
        with self._reading() as cursor:
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
            before = db.execute(query, post.key).fetchone()
            db.execute(_HOLD, astuple(post)[: len(_COLUMNS)])
        return before is None or before[0] != post.reason

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
