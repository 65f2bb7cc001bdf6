"""Maildrops in an mbox file, shared with those who deliver to it (stubmail.mbox)."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.pop3d.lock import SessionLock
from stubmail.errors import PermanentError
from stubmail.mbox import Mbox, Snapshot

LOCK_SUFFIX = ".stub-session"
LOCK_SECONDS = 10.0  # to wait for a delivery to end


@dataclass(frozen=True, slots=True)
class MboxLocation:
    """An mbox file; none there is an empty maildrop."""

    path: Path

    def open(self) -> "MboxMaildrop":
        """Lock it for this session, not for deliveries, and look at what is there."""
        self.check()
        lock = SessionLock(Path(f"{self.path}{LOCK_SUFFIX}"))
        try:
            return MboxMaildrop(self.path, lock)
        except BaseException:
            lock.release()
            raise

    def check(self) -> None:
        """Raise PermanentError unless the file may be read and written, and files made beside it (locks, journals)."""
        if not self.path.parent.is_dir():
            raise PermanentError("5.3.5", f"{self.path.parent} is not a directory")
        if not os.access(self.path.parent, os.R_OK | os.W_OK | os.X_OK):
            raise PermanentError("5.3.5", f"{self.path.parent} cannot be read and written")
        if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK):
            raise PermanentError("5.3.5", f"{self.path} cannot be read and written")


class MboxMaildrop:
    """An open mbox; see services.pop3d.maildrop.Maildrop."""

    def __init__(self, path: Path, lock: SessionLock) -> None:
        self._mbox = Mbox(path, LOCK_SECONDS, owner="pop3d")
        self._lock = lock
        self._snapshot: Snapshot = self._mbox.snapshot()
        self.octets: Sequence[int] = [self._snapshot.octets(i) for i in range(len(self._snapshot))]

    def uid(self, index: int) -> str:
        return self._snapshot.digest(index)[:16].hex()

    def content(self, number: int) -> Iterator[bytes]:
        return self._snapshot.chunks(number - 1)

    def commit(self, numbers: Sequence[int]) -> None:
        self._mbox.remove(self._snapshot, [number - 1 for number in numbers])

    def close(self) -> None:
        self._lock.release()
