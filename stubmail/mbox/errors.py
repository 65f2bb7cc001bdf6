"""What can go wrong with a mailbox file; every one of them leaves the mail where it is, so all are temporary."""

from stubmail.errors import TemporaryError


class MboxError(TemporaryError):
    """The mailbox cannot be read or written now: nothing was delivered, deleted or lost."""


class MailboxBusy(MboxError):
    """Another program held the mailbox's lock for as long as the caller was ready to wait."""


class NoRoom(MboxError):
    """The disk, or the user's quota of it, is full (4.3.1, 4.2.2)."""


class NotMbox(MboxError):
    """What stands at the path is no mbox: not a regular file, or one that does not begin with a ``From `` line."""
