"""The one UDP process of a store that is a CGI program: which call starts it, and how an admin stops it.

It ends by SIGTERM: from ``post_manager cgi-stop``, from the next call once ``udp = false`` stands in the
configuration, or from systemd together with the web server. The next call starts another, unless UDP is off.
"""

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from stubmail import log

LOCK = "udp.lock"  # in the spool directory: locked while such a process lives, and then it says which
LOG = "udp.log"
RETRY_SECONDS = 60  # after one that could not serve: not every call shall start a process in vain

FAILED = "failed"  # in the lock file
_WIDTH = 16
# What a web server adds, the peer's header fields above all, is no business of a process that outlives the request.
_KEPT = frozenset({"PATH", "HOME", "LANG", "TZ", "TMPDIR", "STUB_CONF"})
_KEPT_PREFIXES = ("STUBMAIL_", "LC_", "PG", "PYTHON")

_log = logging.getLogger("post_manager.cgi")


def ensure(spool: Path, config: Path) -> bool:
    """Start the UDP process unless it runs; of any number of calls at once, one does. Return whether one runs now.

    The process inherits the lock, open file description and all: it is free again when the process ends.
    """
    try:
        with _locked(spool / LOCK) as descriptor:
            if descriptor is None:
                return True
            status = os.fstat(descriptor)
            if _read(descriptor) == FAILED and 0 <= time.time() - status.st_mtime < RETRY_SECONDS:
                return False
            note(descriptor, "")
            pid = _start(spool, config, descriptor)
            note(descriptor, str(pid))
            log.event(_log, "started", pid=pid)
            return True
    except OSError as error:  # clients go on over HTTP (protocol.md §6.7)
        log.event(_log, "failed", level=logging.ERROR, error=f"no process for UDP: {error}")
        return False


def stop(spool: Path) -> int | None:
    """Send SIGTERM to the UDP process of a spool directory; return its id, None when none runs."""
    path = spool / LOCK
    if not path.exists():
        return None
    with _locked(path) as descriptor:
        if descriptor is not None:
            return None
    # Whoever holds the lock is this one, or is about to write it.
    text = path.read_text().strip()
    if not text.isdigit():
        return None
    os.kill(int(text), signal.SIGTERM)
    return int(text)


def runs(spool: Path) -> bool:
    """Tell whether the UDP process of a spool directory lives."""
    path = spool / LOCK
    if not path.exists():
        return False
    with _locked(path) as descriptor:
        return descriptor is None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """Hold the lock; None when another process does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _start(spool: Path, config: Path, descriptor: int) -> int:
    """Start the process, with nothing of the web server's: no pipe, no session, no environment."""
    path = spool / LOG
    options = [str(descriptor), str(path.absolute()), "--config", str(config.absolute())]
    with path.open("ab") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "services.post_manager.udp.daemon_process",
                *options,
            ],  # -P: no module out of cgi-bin
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(os.environ),
            start_new_session=True,
            pass_fds=(descriptor,),
        )
    process.returncode = 0  # it outlives this process; nobody waits for it here
    return process.pid


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of a CGI program's environment its daemon needs."""
    return {key: value for key, value in environ.items() if key in _KEPT or key.startswith(_KEPT_PREFIXES)}


def note(descriptor: int, text: str) -> None:
    """Write into the lock file which process holds it, or what became of the last one.

    In place, since on a full disk a file that is cut first may not grow again.
    """
    os.pwrite(descriptor, text.ljust(_WIDTH).encode("ascii"), 0)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, _WIDTH, 0).decode("ascii", "replace").strip()
