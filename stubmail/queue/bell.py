"""The bell: a FIFO through which the courier is told at once that there is something new in the queue.

Ringing costs three system calls and never blocks; a lost ring costs time, not mail, because the courier also looks of
its own accord. A FIFO, because a socket's path may have 108 octets only.
"""

import os
import stat
from pathlib import Path

_PIECE = 4096


class Bell:
    """The listening end; ``fileno`` becomes readable when somebody has rung."""

    def __init__(self, path: Path) -> None:
        """Make the FIFO when it is missing and open it. Raises OSError."""
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            if not stat.S_ISFIFO(path.lstat().st_mode):
                raise
        # Open for writing as well: with no writer left, the end of file would make it readable for ever.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._descriptor

    def clear(self) -> None:
        """Take back all rings so far; call it before looking, never after."""
        try:
            while len(os.read(self._descriptor, _PIECE)) == _PIECE:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        os.close(self._descriptor)


def ring(path: Path) -> bool:
    """Ring the bell; False when nobody listens. Never blocks, never raises."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no such FIFO, or ENXIO: no listener
        return False
    try:
        os.write(descriptor, b"!")
    except BlockingIOError:  # full of rings already
        pass
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
