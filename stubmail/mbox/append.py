"""Appending a batch of messages to a mailbox file, all or none, each exactly once, whatever happens in between.

The batch is written to the journal, ``PATH.stub-append``, before it is appended. The next opener compares: when all of
it is in the mailbox, the ids go to ``PATH.stub-appended-OWNER``, where the program that delivered them picks them up;
else what there is of it is cut out, and what a legacy program appended behind it stays.
"""

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from stubmail import log
from stubmail.mbox import disk, rewrite
from stubmail.mbox.batch import Batch, Delivery, create, load
from stubmail.mbox.errors import MboxError

_logger = logging.getLogger("mbox")

_FROM = re.compile(rb"From ")
_DATED = re.compile(rb"From (?=\S+ +\S[^\n]*\d\d:\d\d)")
_SHARED = 4096  # octets that a From_ line in the batch and one that came after it may have in common


def append(path: Path, mailbox: int, owner: str, messages: Sequence[Delivery]) -> None:
    """Append messages to the locked, healed file open as ``mailbox``; they are on disk when this returns.

    The journal stays until ``forget``. Raises OSError or MboxError; nothing was appended then, unless even taking it
    back has failed: that is left to ``heal``, and what it finds complete counts as delivered.
    """
    journal, batch = create(_journal(path), mailbox, owner, messages)
    with disk.closing(journal):
        try:
            disk.copy(journal, 0, batch.length, mailbox, batch.offset)
            disk.sync(mailbox)
        except (OSError, MboxError):
            _take_back(path, mailbox, batch, _written(mailbox, journal, batch))
            raise


def forget(path: Path) -> None:
    """Remove the journal: the caller has recorded the ids."""
    disk.drop(_journal(path))


def heal(path: Path, mailbox: int) -> None:
    """Take back a delivery that a crash has cut short, or note the ids of one that is complete.

    Raises OSError or MboxError.
    """
    journal = disk.open_own(_journal(path), mailbox)
    if journal is None:
        return
    with disk.closing(journal):
        batch = load(journal)
        if batch is None:  # it was never whole on disk, so nothing has been appended
            forget(path)
        elif not batch.has_place(mailbox):
            # To take it for delivered might lose it; delivered again it may be there twice.
            log.event(_logger, "not-healed", level=logging.ERROR, mailbox=path, reason="another program rewrote it")
            forget(path)
        elif batch.is_complete(mailbox):
            # Written over itself, for an fsync that failed leaves octets that only look as if they were on disk.
            disk.copy(journal, 0, batch.length, mailbox, batch.offset)
            disk.sync(mailbox)
            _note(path, mailbox, batch)
            log.event(_logger, "healed", mailbox=path, delivered=len(batch.ids))
        else:
            _take_back(path, mailbox, batch, _written(mailbox, journal, batch))
            log.event(_logger, "healed", mailbox=path, taken_back=len(batch.ids))


def noted(path: Path, mailbox: int, owner: str) -> list[str]:
    """Return the ids of this owner's deliveries that ``heal`` found complete: JSON, or a journal."""
    fd = disk.open_own(_notes(path, owner), mailbox)
    if fd is None:
        return []
    with disk.closing(fd):
        batch = load(fd)
        ids: list[str] = batch.ids if batch else json.loads(disk.read(fd, os.fstat(fd).st_size, 0))
    return ids


def is_noted(path: Path, owner: str) -> bool:
    """Whether ``noted`` has something to return, or ``heal`` may find something."""
    return _notes(path, owner).exists() or _journal(path).exists()


def forget_noted(path: Path, owner: str) -> None:
    """Remove the note: the owner has recorded the ids."""
    disk.drop(_notes(path, owner))


def _note(path: Path, mailbox: int, batch: Batch) -> None:
    """Add the ids to the note; when the disk is full and there is none yet, the journal becomes the note."""
    note, known = _notes(path, batch.owner), noted(path, mailbox, batch.owner)
    draft = Path(f"{note}.new")
    disk.remove(draft)
    try:
        with disk.closing(disk.create(draft)) as fd:
            disk.write(fd, json.dumps(list(dict.fromkeys(known + batch.ids))).encode(), 0)
            disk.sync(fd)
    except OSError as error:
        disk.remove(draft)
        if known or not disk.is_full(error):
            raise
        disk.rename(_journal(path), note)
    else:
        disk.rename(draft, note)
        forget(path)


def _written(mailbox: int, journal: int, batch: Batch) -> int:
    """How many octets at the batch's place are its own, not those of mail that came after it was torn.

    NULs count as its own where a file system has grown the file and lost the octets. Mail that came after may begin
    like the batch goes on (``From ``), so of what it has in common with the batch its From_ line is not counted.
    """
    size = os.fstat(mailbox).st_size - batch.offset
    at = 0
    while at < min(batch.length, size):
        there = disk.read(mailbox, min(disk.PIECE, batch.length - at), batch.offset + at)
        same = _common(there, disk.read(journal, len(there), at))
        at += same
        if same < len(there):
            lost = len(there) - same - len(there[same:].lstrip(b"\0"))
            if not lost:
                break
            at += lost
    if at == size or at == batch.length:
        return at
    if late := re.match(rb"[\r\n]*(?=From )", disk.read(mailbox, 16, batch.offset + at)):
        return at + late.end()
    back = min(at, _SHARED)
    around = disk.read(mailbox, back + _SHARED, batch.offset + at - back)
    for pattern in (_DATED, _FROM):  # the text of the batch may hold the word, seldom with a date behind it
        if starts := [found.start() for found in pattern.finditer(around) if found.start() <= back]:
            return at - back + starts[-1]
    return 0


def _take_back(path: Path, mailbox: int, batch: Batch, written: int) -> None:
    """Cut out the first ``written`` octets of the batch and forget it."""
    end = batch.offset + written
    start = batch.offset + min(batch.lead, written)
    if end == os.fstat(mailbox).st_size:
        disk.truncate(mailbox, batch.offset)
        disk.sync(mailbox)
    elif start < end:  # the end of the last line before stays for what came after
        rewrite.cut_out(path, mailbox, [(start, end)])
    forget(path)


def _common(one: bytes, other: bytes) -> int:
    """The length of the longest common beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _journal(path: Path) -> Path:
    return Path(f"{path}.stub-append")


def _notes(path: Path, owner: str) -> Path:
    return Path(f"{path}.stub-appended-{owner}")
