"""Cutting pieces out of a mailbox file in place, so that a crash at any moment is made good by the next opener.

What is kept moves down in windows. Before a window is overwritten its new octets are on disk in the journal,
``PATH.stub-rewrite``; what later windows are made of lies behind it and is still untouched. The file is cut last.
Until the next opener comes, a legacy program may append at the end that it finds, so the opener must learn whether
the file was cut before: the octets at the new end get a mark first, and a mark that is still there says no.
Where nothing moves, the file is only cut, which is one step; the journal then is empty, and takes no room.

The journal, all of it reserved before the mailbox is touched, so that a full disk is found out in time; where there
is little room, windows are small:

    header (64 octets): magic, length of the plan, its hash; a flag set when nothing but the cut is left to do
    plan: JSON with the file's inode and size, the ranges that are kept, and a hash of what precedes the first change
    slot 0, slot 1: number of the window, length of its octets, their hash; the octets. Windows take turns
"""

import contextlib
import logging
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path

from stubmail import log
from stubmail.mbox import disk
from stubmail.mbox.errors import MboxError
from stubmail.mbox.plan import Plan
from stubmail.mbox.scan import separator

WINDOW = 16 << 20  # octets; two of them are what a rewrite likes to take of the disk
LEAST = 512  # octets of a window when there is little room: a block of the disk has room for two and the plan
MOST = 4096  # windows, each of which is waited for twice, when there is little room

Refresh = Callable[[], None]  # called often, to show that the holder of the lock is alive


def _no_refresh() -> None:
    """For rewrites that take no time."""


_logger = logging.getLogger("mbox")

_HEADER = struct.Struct(">16sQ24s16s")
_MAGIC = b"stub-rewrite 1\r\n"
_FLAG_AT = 48
_CUTTING = b"nothing but cut\n"
_SLOT = struct.Struct(">QQ24s")


class _Rewrite:
    """A rewrite under way: the open mailbox, the open journal, and the plan in it."""

    def __init__(self, mailbox: int, journal: int, plan: Plan) -> None:
        self.plan = plan
        self.touched = False  # whether the mailbox may differ from what it was
        self._mailbox = mailbox
        self._journal = journal
        self._slots_at = _HEADER.size + len(plan.format())

    def run(self, refresh: Refresh) -> None:
        """Do all but the cut, from the window on that the journal holds, if it holds one."""
        begun = max(self._held(0), self._held(1))
        if begun >= 0:
            self._apply(begun)
        for number in range(begun + 1, self.plan.windows):
            refresh()
            self._save(number)
            self._apply(number)
        self.touched = True
        disk.write(self._mailbox, self.plan.mark, self.plan.new_size)
        disk.sync(self._mailbox)
        disk.write(self._journal, _CUTTING, _FLAG_AT)
        disk.sync(self._journal)

    def try_out(self) -> None:
        """Write the first window's place as it is: a file system that copies on writing may lack the room for that."""
        first = self.plan.first
        disk.copy(self._mailbox, first, first + self.plan.window, self._mailbox, first)
        disk.sync(self._mailbox)

    def free(self) -> None:
        """Give back the room that windows took: a marked file needs them no more."""
        disk.truncate(self._journal, self._slots_at)

    def is_marked(self) -> bool:
        """Whether nothing but the cut was left to do."""
        return disk.read(self._journal, len(_CUTTING), _FLAG_AT) == _CUTTING

    def is_cut(self) -> bool:
        """Whether a file that was marked has been cut since, whatever was appended to it then."""
        at, mark = self.plan.new_size, self.plan.mark
        return os.fstat(self._mailbox).st_size < self.plan.size or disk.read(self._mailbox, len(mark), at) != mark

    def cut(self) -> None:
        """End the rewrite."""
        disk.truncate(self._mailbox, self.plan.new_size)
        disk.sync(self._mailbox)

    def _slot(self, number: int) -> int:
        return self._slots_at + (number % 2) * (_SLOT.size + self.plan.window)

    def _held(self, slot: int) -> int:
        """The number of the window that a slot holds whole, -1 for none."""
        at = self._slot(slot) + _SLOT.size
        number, length, digest = _SLOT.unpack(disk.read(self._journal, _SLOT.size, at - _SLOT.size).ljust(_SLOT.size))
        if number >= self.plan.windows or not 0 < length <= self.plan.window:
            return -1
        if os.fstat(self._journal).st_size < at + length:
            return -1
        return number if disk.hash_of(disk.pieces(self._journal, at, at + length)) == digest else -1

    def _save(self, number: int) -> None:
        at = self._slot(number) + _SLOT.size
        end = at
        for start, stop in self.plan.sources(number):
            disk.copy(self._mailbox, start, stop, self._journal, end)
            end += stop - start
        digest = disk.hash_of(disk.pieces(self._journal, at, end))
        disk.write(self._journal, _SLOT.pack(number, end - at, digest), at - _SLOT.size)
        disk.sync(self._journal)

    def _apply(self, number: int) -> None:
        self.touched = True
        at = self._slot(number) + _SLOT.size
        _, length, _ = _SLOT.unpack(disk.read(self._journal, _SLOT.size, at - _SLOT.size))
        disk.copy(self._journal, at, at + length, self._mailbox, self.plan.first + number * self.plan.window)
        disk.sync(self._mailbox)


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
    try:
        journal, plan = _create(_journal(path), Plan.without(gaps, mailbox, WINDOW))
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
        rewrite = _Rewrite(mailbox, journal, plan)
        try:
            if plan.window < min(plan.total, WINDOW):
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
        rewrite = _load(mailbox, journal)
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


def _finish(path: Path, mailbox: int, rewrite: _Rewrite, refresh: Refresh) -> None:
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
    journal, plan = _create(draft, Plan.without([(start, end)], mailbox, WINDOW))
    with disk.closing(journal):
        disk.rename(draft, _journal(path))
        rest = _Rewrite(mailbox, journal, plan)
        rest.run(refresh)
        _finish(path, mailbox, rest, refresh)


def _create(path: Path, plan: Plan) -> tuple[int, Plan]:
    """Write a new journal; it is whole on disk, and so is its name, when this returns.

    Returns it with the plan in it, which has smaller windows than the given one where there is little room.
    """
    with contextlib.ExitStack() as undo:
        fd = disk.create(path)
        undo.callback(disk.drop, path)
        undo.callback(os.close, fd)
        plan = _reserve(fd, plan)
        text = plan.format()
        disk.write(fd, _HEADER.pack(_MAGIC, len(text), disk.hash_of([text]), b"") + text, 0)
        disk.sync(fd)
        disk.sync_directory(path)
        undo.pop_all()
    return fd, plan


def _reserve(journal: int, plan: Plan) -> Plan:
    """Take the room that a journal needs, and return the plan with windows for which there is room."""
    while True:
        try:
            slots = min(plan.windows, 2) * (_SLOT.size + plan.window)
            disk.reserve(journal, _HEADER.size + len(plan.format()) + slots)
            return plan
        except OSError as error:
            smaller = plan.with_window(plan.window // 2) if plan.window >= 2 * LEAST else None
            if smaller is None or smaller.windows > MOST or not disk.is_full(error):
                raise
            disk.truncate(journal, 0)
            plan = smaller


def _load(mailbox: int, journal: int) -> _Rewrite | None:
    """Read a journal; None when it was not written to its end."""
    head = disk.read(journal, _HEADER.size, 0)
    if len(head) < _HEADER.size:
        return None
    magic, length, digest, _ = _HEADER.unpack(head)
    if magic != _MAGIC or length > os.fstat(journal).st_size:
        return None
    text = disk.read(journal, length, _HEADER.size)
    if disk.hash_of([text]) != digest:
        return None
    return _Rewrite(mailbox, journal, Plan.parse(text))


def _journal(path: Path) -> Path:
    return Path(f"{path}.stub-rewrite")
