"""Cutting pieces out of a mailbox file in place, so that a crash at any moment is made good by the next opener.

What is kept moves down in windows. Before a window is overwritten its new octets are on disk in the journal,
``PATH.stub-rewrite``; what later windows are made of lies behind it and is still untouched. The file is cut last.
Until the next opener comes, a legacy program may append at the end that it finds, so the opener must learn whether
the file was cut before: the octets at the new end get a mark first, and a mark that is still there says no.
Where nothing moves, the file is only cut, which is one step; the journal then is empty, and takes no room.
"""

import logging
import os
import re
import time
from pathlib import Path

from stubmail import log
from stubmail.mbox import disk
from stubmail.mbox.errors import MboxError
from stubmail.mbox.plan import Plan
from stubmail.mbox.rewrite_journal import Refresh, Rewrite, create, load
from stubmail.mbox.scan import separator

WINDOW = 16 << 20  # octets; two of them are what a rewrite likes to take of the disk


def _no_refresh() -> None:
    """For rewrites that take no time."""


_logger = logging.getLogger("mbox")


def cut_out(
    path: Path,
    mailbox: int,
    gaps: list[tuple[int, int]],
    refresh: Refresh = _no_refresh,
    spare: Path | None = None,
) -> None:
    """Take ranges (ascending, apart, none empty, inside the file) out of the locked file open as ``mailbox``.

    A range at the end alone needs no room on the disk. Where there is none for others, first the file ``spare`` is
    removed, then what is to go at the end.
    Raises OSError or MboxError; then the file is as it was, or ``heal`` will complete what was begun. Only when there
    is no room, a range at the end may have gone, and the others not.
    """
    start, end = gaps[-1]
    at_end = end == os.fstat(mailbox).st_size
    if len(gaps) == 1 and at_end:
        _cut_end(path, mailbox, start)
        return
    wish = Plan.without(gaps, mailbox, WINDOW)
    try:
        journal, plan = create(_journal(path), wish)
    except OSError as error:
        if not disk.is_full(error) or not (spare or at_end):
            raise
        if spare:
            disk.remove(spare)
        else:
            _cut_end(path, mailbox, start)
        cut_out(path, mailbox, gaps if spare else gaps[:-1], refresh)
        return
    with disk.closing(journal):
        rewrite = Rewrite(mailbox, journal, plan)
        try:
            if plan != wish:
                rewrite.try_out()
            rewrite.run(refresh)
        except (OSError, MboxError):
            if not rewrite.touched:
                disk.drop(_journal(path))
            raise
        _finish(path, mailbox, rewrite, refresh)


def _cut_end(path: Path, mailbox: int, size: int) -> None:
    """Cut the file, of which nothing moves: no octets need be kept, and an empty journal will do.

    Without it a killed cut might not be on disk yet when others append; after a power failure the old octets would
    be back behind the new. It need not outlive a power failure itself.
    """
    with disk.closing(disk.create(_journal(path))):
        disk.truncate(mailbox, size)
        disk.sync(mailbox)
    disk.remove(_journal(path))


def heal(path: Path, mailbox: int, refresh: Refresh) -> None:
    """Complete the rewrite that a crash has interrupted, if there is one. Raises OSError or MboxError."""
    journal = disk.open_own(_journal(path), mailbox)
    if journal is None:
        return
    with disk.closing(journal):
        # Whoever was killed may not have lived to see its octets on disk, and now much will rest on them.
        disk.sync(journal)
        disk.sync_directory(_journal(path))
        rewrite = load(mailbox, journal)
        if rewrite is None:  # it was never whole on disk, so nothing has moved; the end may have been cut off
            disk.sync(mailbox)
            disk.drop(_journal(path))
        elif rewrite.is_marked():
            if not rewrite.is_cut():
                _finish(path, mailbox, rewrite, refresh)
            else:
                disk.sync(mailbox)
                disk.drop(_journal(path))
        elif rewrite.plan.fits(mailbox):
            rewrite.run(refresh)
            _finish(path, mailbox, rewrite, refresh)
            log.event(_logger, "healed", rewrite=path)
        else:
            # Another program has rewritten or replaced a half rewritten mailbox: what was to be kept is in here.
            aside = Path(f"{_journal(path)}.{time.time_ns()}")
            disk.rename(_journal(path), aside)
            log.event(_logger, "set-aside", level=logging.ERROR, journal=aside, reason="the mailbox is another one")


def _finish(path: Path, mailbox: int, rewrite: Rewrite, refresh: Refresh) -> None:
    """Cut the marked file, but keep what has been appended to it since the plan was made."""
    size = os.fstat(mailbox).st_size
    if size == rewrite.plan.size:
        rewrite.cut()
        disk.drop(_journal(path))
        return
    rewrite.free()
    draft = Path(f"{_journal(path)}.new")
    disk.remove(draft)
    start, end = rewrite.plan.new_size, rewrite.plan.size
    if not separator(disk.read(mailbox, min(start, 3), max(0, start - 3))):
        # Who appended may have ended the last message, which has gone: another must not grow by those empty lines.
        ends = re.match(rb"[\r\n]*(?=From )", disk.read(mailbox, 16, end))
        end += ends.end() if ends else 0
    journal, plan = create(draft, Plan.without([(start, end)], mailbox, WINDOW))
    with disk.closing(journal):
        disk.rename(draft, _journal(path))
        rest = Rewrite(mailbox, journal, plan)
        rest.run(refresh)
        _finish(path, mailbox, rest, refresh)


def _journal(path: Path) -> Path:
    return Path(f"{path}.stub-rewrite")
