"""Puts notices into the senders' maildrops, each exactly once."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from services.smtp2stub.dsn import MAX_HEADER, build, notice_id, parse_notice_id, statuses
from stubmail.errors import PermanentError, TemporaryError
from stubmail.log import event
from stubmail.mbox import Delivery, Mbox
from stubmail.queue import ItemError, Progress, Queue, Stored
from stubmail.users import Users

OWNER = "smtp2stub"
MBOX = "mbox:"

_log = logging.getLogger("smtp2stub.courier")


class Notices:
    """``users`` returns the accounts as they are now; ``host`` is our name; ``lifetime`` is for how many seconds
    delivery is tried. For one thread."""

    def __init__(
        self, queue: Queue, users: Callable[[], Users], host: str, lifetime: float, clock: Callable[[], float]
    ) -> None:
        self._queue = queue
        self._users = users
        self._host = host
        self._lifetime = lifetime
        self._clock = clock

    def deliver(self, stored: Stored, progress: Progress) -> None:
        """Deliver the message's last notice, unless it is in the maildrop already.

        Raises TemporaryError when that does not go now, PermanentError 5.3.5 when the sender has no maildrop here.
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
        mbox = Mbox(self._maildrop(item.account), owner=OWNER)
        mbox.deliver([Delivery(notice_id(item, number), "", now, text)], self._delivered)
        event(_log, "notified", item.id, account=item.account, recipients=len(recipients))

    def _maildrop(self, account: str) -> Path:
        user = self._users().find(account)
        if user is None or not user.maildrop.startswith(MBOX):
            raise PermanentError("5.3.5", f"the account {account} has no mbox to put notices into")
        return Path(user.maildrop.removeprefix(MBOX))

    def _delivered(self, ids: Sequence[str]) -> None:
        """The mbox has these; some may be of an earlier attempt that a crash hid."""
        for text in ids:
            try:
                queue_id, number = parse_notice_id(text)
            except ValueError:
                continue
            self._queue.tell(queue_id, number)
