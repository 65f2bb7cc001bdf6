"""A Maildir (cr.yp.to/proto/maildir.html) as a maildrop: each message in a file of its own, each exactly once.

A batch is written to ``tmp``, fsynced; then the journal, in the account's state directory, says which files belong to
which ids; then they are renamed to ``new``, fsynced; then the ids are recorded, and the journal goes. Whoever finds a
journal goes on from there: a file that is still in ``tmp`` was not delivered and is now; one that is not there was,
whatever its reader has done with it since.
"""

import errno
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from stubmail.log import event
from stubmail.mbox import Delivery
from stubmail.mbox.file import Committed
from stubmail.spool import remove_durably, sync_directory, write_durably

SWEPT_SECONDS = 24 * 3600  # programs remove what has lain in tmp for 36 hours: then its absence tells nothing any more
_DIRECTORIES = ("tmp", "new", "cur")
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]")

_log = logging.getLogger("maildir")


class Maildir:
    """The Maildir at ``path``, made when it is missing; ``owner`` tells this account's files in ``tmp`` from others'.

    ``journal`` is a file of the account's own on a disk that may be another one. All methods raise OSError.
    """

    def __init__(
        self, path: Path, journal: Path, owner: str, clock: Callable[[], float] = time.time, host: str = ""
    ) -> None:
        self.path = path
        self._journal = journal
        self._owner = sha256(owner.encode()).hexdigest()[:8]
        self._clock = clock
        self._host = _UNSAFE.sub("-", host or socket.gethostname()) or "localhost"

    def deliver(self, messages: Sequence[Delivery], committed: Committed) -> None:
        """Deliver all messages or none, each id once, durably when it returns; ``committed`` as in Mbox.deliver.

        When renaming fails halfway, the next call completes it first.
        """
        if not messages:
            return
        known = self._complete(committed)
        fresh = {message.id: message for message in messages if message.id not in known}
        if not fresh:
            return
        self._make_directories()
        entries = [(each.id, self._name(at, each)) for at, each in enumerate(fresh.values())]
        written: list[Path] = []
        try:
            for (_, name), message in zip(entries, fresh.values(), strict=True):
                written.append(self.path / "tmp" / name)
                _write(written[-1], message)
            sync_directory(self.path / "tmp")
            write_durably(self._journal, json.dumps({"time": self._clock(), "entries": entries}).encode())
        except BaseException:
            if not self._journal.exists():  # else they are delivered: the next call sees to that
                for path in written:
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
            raise
        self._complete(committed)

    def recover(self, committed: Committed) -> None:
        """Complete what a crash has cut short, and remove what it left in ``tmp`` before that could be known."""
        self._complete(committed)
        for path in (self.path / "tmp").glob(f"*S{self._owner}*"):
            path.unlink(missing_ok=True)

    def _complete(self, committed: Committed) -> set[str]:
        """Deliver what the journal names, and return its ids."""
        try:
            journal = json.loads(self._journal.read_bytes())
        except FileNotFoundError:
            return set()
        except ValueError as error:  # it was written whole: the disk has damaged it
            raise OSError(errno.EIO, "the journal is damaged", str(self._journal)) from error
        for directory in ("tmp", "new"):  # that a file is not there must mean that it was delivered
            sync_directory(self.path / directory)
        swept = self._clock() - journal["time"] > SWEPT_SECONDS
        ids: list[str] = []
        for message_id, name in journal["entries"]:
            try:
                (self.path / "tmp" / name).rename(self.path / "new" / name)
            except FileNotFoundError:
                if swept and not self._has(name):
                    event(_log, "not-found", message_id, level=logging.WARNING, path=self.path / "tmp" / name)
                    continue  # it is delivered anew: to take it for delivered might lose it
            ids.append(message_id)
        sync_directory(self.path / "new")
        sync_directory(self.path / "tmp")
        committed(ids)
        remove_durably(self._journal)
        return set(ids)

    def _has(self, name: str) -> bool:
        return (self.path / "new" / name).exists() or any((self.path / "cur").glob(f"{name}*"))

    def _make_directories(self) -> None:
        """Make the Maildir unless something is there: an empty directory may be where a disk is not mounted."""
        if os.path.lexists(self.path):
            return
        draft = self.path.with_name(f".{self.path.name}.{self._owner}")
        for path in (draft, *(draft / name for name in _DIRECTORIES)):
            path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(draft)
        draft.rename(self.path)
        sync_directory(self.path.parent)

    def _name(self, number: int, message: Delivery) -> str:
        """Unique by the id, sorted by time and order of delivery."""
        digest = sha256(message.id.encode()).hexdigest()[:24]
        return f"{int(message.when)}.Q{number:05}S{self._owner}{digest}.{self._host}"


def _write(path: Path, message: Delivery) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in stored(message):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def stored(message: Delivery) -> Iterator[bytes]:
    """Yield a message as programs on this machine expect it: lines that end in LF."""
    assert isinstance(message.content, bytes)  # files are for mboxes alone
    yield message.content.replace(b"\r\n", b"\n")
    if not message.content.endswith(b"\n"):
        yield b"\n"
