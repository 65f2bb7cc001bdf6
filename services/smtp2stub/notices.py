"""Puts notices into the senders' maildrops, each exactly once; a program that was cut short gets its own again."""

import logging
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from services.smtp2stub.dsn import MAX_HEADER, build, notice_id, parse_notice_id, statuses
from stubmail.errors import PermanentError, TemporaryError
from stubmail.log import event
from stubmail.maildrops import MBOX, Maildrop, Pipe, parse_maildrop
from stubmail.mbox import Delivery, Mbox
from stubmail.queue import ItemError, Progress, Queue, Stored
from stubmail.settings import ConfigError
from stubmail.spool import clean_temporary, sync_directory
from stubmail.users import User, Users

OWNER = "smtp2stub"
DIRECTORY = "notices"  # in the spool: what deliveries into Maildirs and to programs need of files
LOCK_SECONDS = 30.0  # for another program that has the mbox locked

_log = logging.getLogger("smtp2stub.courier")


class Notices:
    """``users`` returns the accounts as they are now; ``host`` is our name; ``lifetime`` is for how many seconds
    delivery is tried; ``pipe_seconds`` bounds each run of a delivery program. For one thread, but ``interrupt``."""

    def __init__(
        self,
        queue: Queue,
        users: Callable[[], Users],
        host: str,
        lifetime: float,
        pipe_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._users = users
        self._host = host
        self._lifetime = lifetime
        self._pipe_seconds = pipe_seconds
        self._clock = clock
        self._maildrops: dict[User, Maildrop] = {}

    def deliver(self, stored: Stored, progress: Progress) -> None:
        """Deliver the message's last notice, unless it is in the maildrop already.

        Raises TemporaryError when that does not go now, PermanentError when the sender has no maildrop here (5.3.5) or
        his delivery program refuses it (5.2.0).
        """
        item, number = stored.item, progress.notices
        if self._queue.told(item.id) >= number:
            return
        recipients = statuses(item, progress, number, self._lifetime)
        if not recipients:  # a delay that was over before the maildrop could be written to
            self._queue.tell(item.id, number)
            return
        try:
            header = stored.header(MAX_HEADER)
        except (OSError, ItemError) as error:
            raise TemporaryError("4.3.0", f"the message cannot be read: {error}") from error
        now = self._clock()
        text = build(item, number, recipients, self._host, header, now)
        try:
            maildrop = self._maildrop(item.account)
            if self._queue.told(item.id) >= number:  # as opening it has brought to light
                return
            refused = maildrop.deliver([Delivery(notice_id(item, number), "", now, text)], self._delivered)
        except OSError as error:
            raise TemporaryError("4.3.0", f"{error.filename or 'the disk'}: {error.strerror or error}") from error
        for reason in (refused or {}).values():
            raise PermanentError("5.2.0", reason)
        event(_log, "notified", item.id, account=item.account, recipients=len(recipients))

    def interrupt(self) -> None:
        """End a delivery program that is at work in another thread: the process is about to end."""
        for maildrop in list(self._maildrops.values()):
            if isinstance(maildrop, Pipe):
                maildrop.interrupt()

    def _maildrop(self, account: str) -> Maildrop:
        user = self._users().find(account)
        if user is None or not user.maildrop:
            raise PermanentError("5.3.5", f"the account {account} has no maildrop to put notices into")
        if user not in self._maildrops:
            maildrop = self._open(user)
            maildrop.recover(self._delivered)
            self._maildrops[user] = maildrop
        return self._maildrops[user]

    def _open(self, user: User) -> Maildrop:
        try:
            location = parse_maildrop(user)
        except ConfigError as error:
            raise PermanentError("5.3.5", error.text) from error
        if location.kind == MBOX:
            return Mbox(location.path, LOCK_SECONDS, owner=OWNER)
        directory = self._directory(user)
        # Whatever else delivers into the same Maildir, another gateway too, must not take our files in tmp for its own.
        owner = f"{OWNER} {self._host} {directory.resolve()}"
        return location.open(directory, owner, str(user.address), LOCK_SECONDS, self._pipe_seconds)

    def _directory(self, user: User) -> Path:
        """Make the state directory of an account and a maildrop: a journal says nothing about another Maildir."""
        name = sha256(f"{user.name}\0{user.maildrop}".encode()).hexdigest()[:32]
        directory = self._queue.root / DIRECTORY / name
        for path in (directory.parent, directory):
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(path.parent)
        clean_temporary(directory)
        return directory

    def _delivered(self, ids: Sequence[str]) -> None:
        """The maildrop has these; some may be of an earlier attempt that a crash hid."""
        for text in ids:
            try:
                queue_id, number = parse_notice_id(text)
            except ValueError:
                continue
            self._queue.tell(queue_id, number)
