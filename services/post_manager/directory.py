"""The spool directory: this user's alone, with the database and what is being received (seeds: README)."""

import os
import pwd
import stat
from pathlib import Path

from stubmail.errors import Exit

INCOMING = "incoming"  # uploads that are not in the database yet


def open_directory(path: Path) -> Path:
    """Make sure that the spool directory is there and belongs to this user alone; return where uploads go.

    Raises Exit with one sentence that says what to change.
    """
    _own(path, "the spool directory")
    incoming = path / INCOMING
    _own(incoming, "the directory for uploads")
    return incoming


def clean(incoming: Path) -> int:
    """Remove what uploads left behind that a crash cut short; return how many files. Call it while nobody uploads."""
    leftovers = list(incoming.iterdir())
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)


def _own(path: Path, what: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except FileExistsError:
        raise Exit(os.EX_CONFIG, f"{what} {path} is not a directory") from None
    except PermissionError:
        raise Exit(os.EX_NOPERM, f"{what} {path} cannot be made or opened: permission denied") from None
    except OSError as error:
        raise Exit(os.EX_CANTCREAT, f"{what} {path} cannot be made: {error.strerror}") from error
    if status.st_uid != os.geteuid():
        own = _name(os.geteuid())
        text = f"{what} {path} belongs to user {_name(status.st_uid)}, but this process runs as user {own}"
        raise Exit(os.EX_NOPERM, f"{text}; run it as the owner, or as root: chown -R {own} {path}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Exit(os.EX_CONFIG, f"{what} {path} can be entered by other users; run: chmod 700 {path}")
    if not os.access(path, os.W_OK | os.X_OK):
        raise Exit(os.EX_NOPERM, f"{what} {path} cannot be written to")


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
