"""The journal of a rewrite of a mailbox file, and the rewrite's steps, each of which can be made good from it.

All of it is reserved before the mailbox is touched, so that a full disk is found out in time:

    header (64 octets): magic, length of the plan, its hash; a flag set when nothing but the cut is left to do
    plan: JSON with the file's inode and size, the ranges that are kept, and a hash of what precedes the first change
    slot 0, slot 1: number of the window, length of its octets, their hash; the octets. Windows take turns

Where there is not that room, windows are smaller. Those that are no longer than the first gap are not written over what
they are made of, and need not be kept: a slot is the number, nought, the number's hash.
"""

import contextlib
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from stubmail.mbox import disk
from stubmail.mbox.plan import Plan

LEAST = 512  # octets of a window when there is little room: a block of the disk has room for two and the plan
MOST = 4096  # windows, each of which is waited for twice, when there is little room

Refresh = Callable[[], None]  # called often, to show that the holder of the lock is alive

_HEADER = struct.Struct(">16sQ24s16s")
_MAGIC = b"stub-rewrite 1\r\n"
_FLAG_AT = 48
_CUTTING = b"nothing but cut\n"
_SLOT = struct.Struct(">QQ24s")


class Rewrite:
    """A rewrite under way: the open mailbox, the open journal, and the plan in it."""

    def __init__(self, mailbox: int, journal: int, plan: Plan) -> None:
        self.plan = plan
        self.touched = False  # whether the mailbox may differ from what it was
        self._mailbox = mailbox
        self._journal = journal
        length: int = _HEADER.unpack(disk.read(journal, _HEADER.size, 0))[1]  # as written, by whichever version
        self._slots_at = _HEADER.size + length

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
        return self._slots_at + (number % 2) * (_SLOT.size + self.plan.slot)

    def _held(self, slot: int) -> int:
        """The number of the window that a slot holds whole, -1 for none."""
        at = self._slot(slot) + _SLOT.size
        number, length, digest = _SLOT.unpack(disk.read(self._journal, _SLOT.size, at - _SLOT.size).ljust(_SLOT.size))
        if number >= self.plan.windows or length > self.plan.slot:
            return -1
        if os.fstat(self._journal).st_size < at + length:
            return -1
        return number if self._digest(number, at, at + length) == digest else -1

    def _save(self, number: int) -> None:
        at = self._slot(number) + _SLOT.size
        end = at
        if not self.plan.direct:
            for start, stop in self.plan.sources(number):
                disk.copy(self._mailbox, start, stop, self._journal, end)
                end += stop - start
        disk.write(self._journal, _SLOT.pack(number, end - at, self._digest(number, at, end)), at - _SLOT.size)
        disk.sync(self._journal)

    def _digest(self, number: int, at: int, end: int) -> bytes:
        if self.plan.direct:
            return disk.hash_of([b"%d" % number])
        return disk.hash_of(disk.pieces(self._journal, at, end))

    def _apply(self, number: int) -> None:
        self.touched = True
        target = self.plan.first + number * self.plan.window
        if self.plan.direct:
            for start, stop in self.plan.sources(number):
                disk.copy(self._mailbox, start, stop, self._mailbox, target)
                target += stop - start
        else:
            at = self._slot(number) + _SLOT.size
            _, length, _ = _SLOT.unpack(disk.read(self._journal, _SLOT.size, at - _SLOT.size))
            disk.copy(self._journal, at, at + length, self._mailbox, target)
        disk.sync(self._mailbox)


def create(path: Path, plan: Plan) -> tuple[int, Plan]:
    """Write a new journal; it is whole on disk, and so is its name, when this returns.

    Returns it with the plan in it, which is another than the given one where there is little room.
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
    """Take the room that a journal needs, and return the plan, or one that needs less, for which there is room."""
    for wish in itertools.chain([plan], _smaller(plan)):
        try:
            disk.reserve(journal, _HEADER.size + len(wish.format()) + min(wish.windows, 2) * (_SLOT.size + wish.slot))
            return wish
        except OSError as error:
            if not disk.is_full(error):
                raise
            full = error
            disk.truncate(journal, 0)
    raise full


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Yield plans that do the same in less and less room, but not in too many steps."""
    direct = plan.directly()
    while plan.window // 2 >= max(LEAST, direct.window):
        plan = plan.with_window(plan.window // 2)
        if plan.windows > MOST:
            return
        yield plan
    if direct.windows <= MOST:
        yield direct


def load(mailbox: int, journal: int) -> Rewrite | None:
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
    return Rewrite(mailbox, journal, Plan.parse(text))
