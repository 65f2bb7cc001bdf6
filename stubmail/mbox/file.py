"""A mailbox file with several writers: append a batch exactly once, look, and remove, each safe against a crash."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stubmail.mbox.snapshot import Snapshot

Committed = Callable[[Sequence[str]], None]


def _forget(ids: Sequence[str]) -> None:
    """For callers that keep no record of what they delivered."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way into the mailbox.

    ``id``: the caller's name for it, one line of text, the same at every attempt. ``sender``: the envelope's
    mail_from, empty for a bounce. ``when``: seconds since the epoch, for the ``From `` line. ``content``: the
    message with CRLF, LF or mixed line ends, as octets, as a file open for reading, or as the path of one
    (read in pieces, so that its size does not matter).
    """

    id: str
    sender: str
    when: float
    content: bytes | BinaryIO | Path


class Mbox:
    """The mailbox file at ``path``; a missing file is an empty mailbox.

    ``lock_timeout``: seconds to wait for the lock. ``owner`` names the delivering program, so that an interrupted
    delivery is later reported to the one that made it: letters, digits and hyphens.
    All methods block and may be called from any thread; all heal first what a crash left behind.
    """

    def __init__(self, path: Path, lock_timeout: float = 30.0, *, owner: str = "http2mbox") -> None:
        raise NotImplementedError

    def deliver(self, messages: Sequence[Delivery], committed: Committed = _forget) -> None:
        """Append all messages or none, each id once, durably when it returns.

        ``committed`` is called with the ids once the messages are on disk, and before anything can forget that they
        are: the caller records them durably there. After a crash at any point, ``recover`` (or the next ``deliver``
        of the same owner) calls it again when the messages are in the file, so it must bear hearing an id twice;
        ids that it hears before the batch is written are left out of the batch.
        Raises MboxError (4.3.1 when the disk is full, MailboxBusy, NotMbox): then nothing was delivered. What
        ``committed`` raises goes through: then all was delivered, and the ids are reported again next time.
        """
        raise NotImplementedError

    def recover(self, committed: Committed) -> None:
        """Report the ids of this owner's deliveries that were complete when a crash or error hid the fact.

        To be called at start, before mail is fetched again. Raises MboxError; what ``committed`` raises goes through.
        """
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        """Look at the messages; the lock is held only meanwhile (1 GB takes about a second or two).

        Raises MboxError, MailboxBusy, or NotMbox for a file that does not begin with a ``From `` line.
        """
        raise NotImplementedError

    def remove(self, snapshot: Snapshot, numbers: Iterable[int]) -> int:
        """Delete messages of a snapshot (``numbers`` count from 0, as in the snapshot) and return how many it deleted.

        In place, durably when it returns. Mail that came since the snapshot stays; messages that others have removed
        or changed meanwhile are passed over, and of identical twins never more are deleted than were asked for.
        Raises MboxError: then nothing is deleted now (if the rewrite itself was cut short, the next opener ends it).
        """
        raise NotImplementedError
