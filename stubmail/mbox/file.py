"""A mailbox file with several writers: append a batch exactly once, look, and remove, each safe against a crash."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stubmail import log
from stubmail.mbox import append, disk, rewrite
from stubmail.mbox.batch import Delivery
from stubmail.mbox.errors import NotMbox
from stubmail.mbox.lock import MailboxLock
from stubmail.mbox.matching import altered, still_in
from stubmail.mbox.scan import Index, Scanner, begins_like_mbox
from stubmail.mbox.snapshot import Snapshot, settled, signature

SCAN = 1 << 17  # octets scanned at a time: the next look at them finds them in the processor's cache

Committed = Callable[[Sequence[str]], None]

_logger = logging.getLogger("mbox")


class Removal(NamedTuple):
    """What became of messages that were to be deleted: so many are; so many stay, as others have changed them."""

    removed: int
    changed: int


def _forget(ids: Sequence[str]) -> None:
    """For callers that keep no record of what they delivered."""


class Mbox:
    """The mailbox file at ``path``; a missing file is an empty mailbox.

    ``lock_timeout``: seconds to wait for the lock. ``owner`` names the delivering program, so that an interrupted
    delivery is later reported to the one that made it: letters, digits and hyphens.
    All methods block and may be called from any thread; all heal first what a crash left behind.
    """

    def __init__(self, path: Path, lock_timeout: float = 30.0, *, owner: str = "http2mbox") -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]+", owner):
            raise ValueError(f"owner must be letters, digits and hyphens, not {owner!r}")
        self.path = path
        self._lock_timeout = lock_timeout
        self._owner = owner

    def deliver(self, messages: Sequence[Delivery], committed: Committed = _forget) -> None:
        """Append all messages or none, each id once, durably when it returns.

        ``committed`` is called with the ids once the messages are on disk, and before anything can forget that they
        are: the caller records them durably there. After a crash at any point, ``recover`` (or the next ``deliver``
        of the same owner) calls it again when the messages are in the file, so it must bear hearing an id twice;
        ids that it hears before the batch is written are left out of the batch.
        Raises MboxError (4.3.1 when the disk is full, MailboxBusy, NotMbox): then nothing was delivered. What
        ``committed`` raises goes through; the ids that it was called with are in the mailbox and reported again.
        """
        if not messages:
            return
        with self._locked() as lock:
            known = self._report(lock, committed)
            fresh = {message.id: message for message in messages if message.id not in known}
            if not fresh:
                return
            with disk.failures(self.path):
                if not begins_like_mbox(disk.read(lock.fd, 4096, 0)):
                    raise self._not_mbox()
                append.append(self.path, lock.fd, self._owner, list(fresh.values()))
            committed(list(fresh))
            try:
                append.forget(self.path)
            except OSError as error:  # the next opener removes it, and the ids are reported once more
                log.event(_logger, "journal-left", level=logging.WARNING, mailbox=self.path, reason=error)

    def recover(self, committed: Committed) -> None:
        """Report the ids of this owner's deliveries that were complete when a crash or error hid the fact.

        To be called at start, before mail is fetched again. Raises MboxError; what ``committed`` raises goes through.
        """
        if self._exists() or append.is_noted(self.path, self._owner):
            with self._locked() as lock:
                self._report(lock, committed)

    def snapshot(self) -> Snapshot:
        """Look at the messages; the lock is held only meanwhile (1 GB takes about two seconds).

        Raises MboxError, MailboxBusy, or NotMbox for a file that does not begin with a ``From `` line.
        """
        if not self._exists():
            return Snapshot(self.path, Index(), None)
        with self._locked() as lock:
            seen, now = signature(lock.fd), time.time()
            return Snapshot(self.path, self._scan(lock), seen, settled(seen, now))

    def remove(self, snapshot: Snapshot, numbers: Iterable[int], spare: Path | None = None) -> Removal:
        """Delete messages of a snapshot (``numbers`` count from 0, as in the snapshot).

        In place, durably when it returns. Mail that came since the snapshot stays; messages that others have removed
        or changed meanwhile are passed over, and of identical twins never more are deleted than were asked for.
        On a full disk messages at the end can be deleted, others where a little room is found. ``spare`` is a file
        that may be removed for that.
        Raises IndexError for a number that is not in the snapshot, MboxError when it cannot be done: then nothing is
        deleted now (if the rewrite itself was cut short, the next opener ends it), but at NoRoom perhaps what was last.
        """
        wanted = sorted(set(numbers))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(snapshot):
            raise IndexError("no such message in the snapshot")
        if not wanted or not self._exists():
            return Removal(0, 0)
        with self._locked() as lock:
            now = self._scan(lock)
            found = still_in(snapshot.index, now, wanted)
            missing = len(wanted) - len(found)
            changed = min(missing, altered(snapshot.index, now)) if missing else 0
            if found:
                with disk.failures(self.path):
                    rewrite.cut_out(self.path, lock.fd, _gaps(now, found), lock.refresh, spare)
        return Removal(len(found), changed)

    def _exists(self) -> bool:
        return os.path.lexists(self.path)

    @contextmanager
    def _locked(self) -> Iterator[MailboxLock]:
        """Hold the lock of the healed mailbox; an absent one is created."""
        with MailboxLock(self.path, self._lock_timeout, create=True) as lock:
            with disk.failures(self.path):
                rewrite.heal(self.path, lock.fd, lock.refresh)
                append.heal(self.path, lock.fd)
            yield lock

    def _report(self, lock: MailboxLock, committed: Committed) -> set[str]:
        """Tell the owner of what was found complete, and return those ids."""
        with disk.failures(self.path):
            ids = append.noted(self.path, lock.fd, self._owner)
        if ids:
            committed(ids)
            with disk.failures(self.path):
                append.forget_noted(self.path, self._owner)
        return set(ids)

    def _scan(self, lock: MailboxLock) -> Index:
        scanner = Scanner()
        try:
            with disk.failures(self.path):
                for data in disk.pieces(lock.fd, 0, os.fstat(lock.fd).st_size, SCAN):
                    scanner.feed(data)
                    lock.refresh()
            return scanner.finish()
        except NotMbox:
            raise self._not_mbox() from None

    def _not_mbox(self) -> NotMbox:
        return NotMbox("4.3.0", f"mailbox {self.path} does not begin with a From line")


def _gaps(index: Index, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The ranges of the file that messages take up with their From_ lines and empty lines, neighbours joined."""
    gaps: list[tuple[int, int]] = []
    for number in numbers:
        start, end = index.starts[number], index.after(number)
        if gaps and gaps[-1][1] == start:
            start = gaps.pop()[0]
        gaps.append((start, end))
    return gaps
