"""Moving the files of a Maildir: from new to cur at login, from cur to tmp to be removed; with a full disk in mind."""

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from services.pop3d.maildir_names import messages_in
from services.pop3d.maildir_twins import another
from stubmail.errors import TemporaryError
from stubmail.log import event
from stubmail.mbox.disk import is_full
from stubmail.spool import sync_directory

NAME_MAX = 255  # octets of a file's name

_log = logging.getLogger("pop3d")


def take_in(path: Path) -> None:
    """Move what is new to cur; on a full disk, what of it cur has room for: the rest comes when some has gone."""
    for name in messages_in(path / "new"):
        try:
            _take(path, name)
        except OSError as error:
            if not is_full(error):
                raise
            event(_log, "left-in-new", level=logging.WARNING, maildir=path, reason=error.strerror)
            return


def _take(path: Path, name: str) -> None:
    """Move a file to cur, under another name when its own is taken there."""
    seen = name if ":" in name else f"{name}:2,"
    if len(os.fsencode(seen)) > NAME_MAX:
        seen = name
    with suppress(FileNotFoundError):  # another program was quicker
        try:
            move(path / "new" / name, path / "cur" / seen)
        except TemporaryError:
            move(path / "new" / name, path / "cur" / another(seen))


def move_away(files: Sequence[Path], tmp: Path) -> list[Path]:
    """Move files of one directory to tmp, durably, and return where they are now. Raises OSError: none is moved."""
    moved: list[Path] = []
    try:
        for file in files:
            moved.append(file.rename(tmp / file.name))
        if files:
            sync_directory(files[0].parent)
    except OSError:
        for source, target in zip(files, moved, strict=False):
            target.rename(source)
        raise
    return moved


def move(source: Path, target: Path) -> None:
    """Rename a file. Raises TemporaryError when there is one of that name."""
    if target.exists():
        raise TemporaryError("4.3.0", f"{target} exists")
    source.rename(target)


def remove(files: Iterable[Path]) -> None:
    """Remove files that may be gone already."""
    for file in files:
        file.unlink(missing_ok=True)
