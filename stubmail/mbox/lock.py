"""The mailbox's delivery lock: an fcntl lock on the file and a dotlock beside it, as Debian policy §11.6 has them."""

from pathlib import Path
from types import TracebackType
from typing import Self


class MailboxLock:
    """Holds the mailbox against every other process and thread, ours or a legacy program's, while in ``with``.

    ``path`` must exist unless ``create``: then it is made with mode 0600. ``timeout`` is in seconds.
    Entering raises MailboxBusy after the timeout, NotMbox when the path is no regular file, MboxError otherwise.
    """

    def __init__(self, path: Path, timeout: float = 30.0, *, create: bool = False) -> None:
        raise NotImplementedError

    fd: int
    """The locked file's descriptor, open for reading and writing, valid inside the ``with`` block."""

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    def refresh(self) -> None:
        """Show that the holder is alive; long operations call it as often as they like."""
        raise NotImplementedError
