"""The exclusive session lock of a maildrop: one session at a time, in this process or any other (RFC 1939 §4)."""

import fcntl
import os
from pathlib import Path

from services.pop3d.maildrop import InUse


class SessionLock:
    """Holds ``path``, a file beside the maildrop, until ``release`` or the end of the process, however abrupt.

    flock, not fcntl: it belongs to this open file alone, so that sessions of one process exclude each other too, and
    closing another descriptor loses nothing. The file stays; were it removed, a third session could lock a new one of
    that name while a second waits for the old. Deliverers never look at it. Raises InUse, or OSError.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise InUse from None
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let the next session in. Releasing twice is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
