"""What a rewrite of a mailbox file moves where, as its journal keeps it."""

import dataclasses
import json
import os
from collections.abc import Iterator

from stubmail.mbox import disk

_MARK = b"\0stub-rewrite\0\0\0"  # no From_ line, and nothing else that is appended, begins with a NUL
_CONTEXT = 4096


def anchor(fd: int, offset: int) -> str:
    """Return a hash of what precedes ``offset``: when it differs later, others have rewritten the file."""
    return disk.hash_of([disk.read(fd, min(offset, _CONTEXT), max(0, offset - _CONTEXT))]).hex()


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Which ranges of which file stay, and move down, so many octets at a time."""

    inode: int
    size: int
    first: int  # offset of the first octet that changes
    kept: list[tuple[int, int]]  # ranges behind it, in order
    total: int  # octets in them
    anchor: str
    window: int  # octets that move at a time
    direct: bool = False  # a window is no longer than the first gap, so that it is not written over its sources

    @classmethod
    def without(cls, gaps: list[tuple[int, int]], mailbox: int, window: int) -> "Plan":
        """Plan to take ranges (ascending, apart, none empty) out of the open mailbox."""
        status = os.fstat(mailbox)
        edges = [offset for gap in gaps for offset in gap] + [status.st_size]
        kept = [(start, end) for start, end in zip(edges[1::2], edges[2::2], strict=True) if start < end]
        total = sum(end - start for start, end in kept)
        first = gaps[0][0]
        window = min(window, max(total, 1))
        return cls(status.st_ino, status.st_size, first, kept, total, anchor(mailbox, first), window)

    @classmethod
    def parse(cls, text: bytes) -> "Plan":
        """Return the plan that ``format`` has written."""
        return cls(**json.loads(text))

    def format(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @property
    def new_size(self) -> int:
        """How long the file will be."""
        return self.first + self.total

    @property
    def mark(self) -> bytes:
        """What stands at the new end until the file has been cut there."""
        return _MARK[: self.size - self.new_size]

    @property
    def windows(self) -> int:
        """How many there are."""
        return -(-self.total // self.window)

    @property
    def slot(self) -> int:
        """How many octets of a window are kept before it is written."""
        return 0 if self.direct else self.window

    def directly(self) -> "Plan":
        """Return the same plan in steps of which no octets need be kept."""
        gap = self.kept[0][0] - self.first
        return dataclasses.replace(self, window=min(self.window, gap), direct=True)

    def with_window(self, window: int) -> "Plan":
        """Return the same plan in other steps."""
        return dataclasses.replace(self, window=window)

    def fits(self, mailbox: int) -> bool:
        """Whether the open mailbox is the one that the plan was made for."""
        status = os.fstat(mailbox)
        return (
            status.st_ino == self.inode and status.st_size >= self.size and anchor(mailbox, self.first) == self.anchor
        )

    def sources(self, number: int) -> Iterator[tuple[int, int]]:
        """The ranges of the old file that window ``number`` is made of."""
        skip, left = number * self.window, self.window
        for start, end in self.kept:
            if skip >= end - start:
                skip -= end - start
                continue
            if left == 0:
                return
            taken = min(left, end - start - skip)
            yield start + skip, start + skip + taken
            skip, left = 0, left - taken
