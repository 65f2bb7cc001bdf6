"""What a CGI store leaves running: the notifier, and the chores, which no request then has to wait for.

python -m services.post_manager.udp.daemon_process DESCRIPTOR LOG --config FILE
"""

import contextlib
import io
import logging
import os
import sys
import threading
import time
from pathlib import Path

from services.post_manager import service
from services.post_manager.chores import Chores
from services.post_manager.udp import daemon, notifier
from stubmail import log
from stubmail.errors import Exit

MAX_LOG = 1_048_576  # octets; then it becomes udp.log.1, and more than these two there never is

_log = logging.getLogger("post_manager.cgi")


class BoundedLog(io.TextIOBase):
    """A log file for one process, renamed to NAME.1 when it is full; a full disk costs its lines and nothing else."""

    def __init__(self, path: Path, most: int = MAX_LOG) -> None:
        self._path = path
        self._most = most

    def write(self, text: str) -> int:
        """Append to the file."""
        data = text.encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            if self._path.exists() and self._path.stat().st_size + len(data) > self._most:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            with self._path.open("ab", buffering=0) as file:
                file.write(data)
        return len(text)


def _do_chores(config: Path) -> None:
    try:
        section, _ = service.read(config, sample=False)
    except Exit as error:  # the notifier says the same, and ends
        log.event(_log, "failed", level=logging.ERROR, error=error)
        return
    database = service.await_database(section, 1)
    Chores(database, time.time, service.tombstone(section)).run_forever()


def main() -> None:
    """Answer checks and do the chores until SIGTERM. The descriptor is that of the lock, held from the start."""
    descriptor, path, config = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[4]
    daemon.note(descriptor, str(os.getpid()))
    sys.stderr = BoundedLog(path)
    failed = True
    try:
        threading.Thread(target=_do_chores, args=(Path(config),), name="chores", daemon=True).start()
        notifier.main(["--config", config], prog_name="post_manager.udp")
    except SystemExit as end:
        failed = bool(end.code)
        raise
    finally:
        daemon.note(descriptor, daemon.FAILED if failed else "")


if __name__ == "__main__":
    main()
