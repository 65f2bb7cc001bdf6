"""Mailbox files in the mboxrd format, shared with legacy programs: delivery, reading and removal that lose nothing."""

from stubmail.mbox.batch import Delivery
from stubmail.mbox.errors import MailboxBusy, MboxError, NoRoom, NotMbox
from stubmail.mbox.file import Mbox
from stubmail.mbox.lock import MailboxLock
from stubmail.mbox.snapshot import Extent, Snapshot

__all__ = ["Delivery", "Extent", "MailboxBusy", "MailboxLock", "Mbox", "MboxError", "NoRoom", "NotMbox", "Snapshot"]
