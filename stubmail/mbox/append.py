"""Appending a batch of messages to a mailbox file, all or none, each exactly once, whatever happens in between.

The batch is written to the journal, ``PATH.stub-append``, before it is appended. The next opener compares: when all of
it is in the mailbox, the ids go to ``PATH.stub-appended-OWNER``, where the program that delivered them picks them up;
else what there is of it is cut out, and what a legacy program appended behind it stays. The journal:

    the batch, rendered as it stands in the mailbox, an end for a last line that had none included
    JSON: where in which file it belongs, its length and hash, whose it is, the ids
    footer (48 octets): length of the JSON, its hash, magic
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from stubmail import log
from stubmail.mbox import disk, plan, rewrite
from stubmail.mbox.errors import MboxError
from stubmail.mbox.format import ToStored, from_line, to_stored
from stubmail.mbox.scan import separator

_logger = logging.getLogger("mbox")

_FOOTER = struct.Struct(">Q24s16s")
_MAGIC = b"stub-append 1\r\n\0"
_FROM = re.compile(rb"From ")
_DATED = re.compile(rb"From (?=\S+ +\S[^\n]*\d\d:\d\d)")
_SHARED = 4096  # octets that a From_ line in the batch and one that came after it may have in common


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way into the mailbox.

    ``id``: the caller's name for it, one line of text, the same at every attempt. ``sender``: the envelope's
    mail_from, empty for a bounce. ``when``: seconds since the epoch, for the ``From `` line. ``content``: the
    message with CRLF, LF or mixed line ends, as octets, as a file open for reading, or as the path of one
    (read in pieces, so that its size does not matter).
    """

    id: str
    sender: str
    when: float
    content: bytes | BinaryIO | Path


@dataclasses.dataclass(frozen=True, slots=True)
class _Batch:
    """What the journal says of the batch in it."""

    inode: int
    offset: int  # where it belongs: the end of the mailbox
    anchor: str  # hash of what precedes it there
    lead: int  # octets of it that complete what was there before
    length: int
    hash: str
    owner: str
    ids: list[str]


def append(path: Path, mailbox: int, owner: str, messages: Sequence[Delivery]) -> None:
    """Append messages to the locked, healed file open as ``mailbox``; they are on disk when this returns.

    The journal stays until ``forget``. Raises OSError or MboxError; nothing was appended then, unless even taking it
    back has failed: that is left to ``heal``, and what it finds complete counts as delivered.
    """
    journal, batch = _create(path, mailbox, owner, messages)
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
        batch = _load(journal)
        if batch is None:  # it was never whole on disk, so nothing has been appended
            forget(path)
        elif not _has_place(mailbox, batch):
            # To take it for delivered might lose it; delivered again it may be there twice.
            log.event(_logger, "not-healed", level=logging.ERROR, mailbox=path, reason="another program rewrote it")
            forget(path)
        elif _is_complete(mailbox, batch):
            # Written over itself, for an fsync that failed leaves octets that only look as if they were on disk.
            disk.copy(journal, 0, batch.length, mailbox, batch.offset)
            disk.sync(mailbox)
            _note(path, mailbox, batch.owner, batch.ids)
            forget(path)
            log.event(_logger, "healed", mailbox=path, delivered=len(batch.ids))
        else:
            _take_back(path, mailbox, batch, _written(mailbox, journal, batch))
            log.event(_logger, "healed", mailbox=path, taken_back=len(batch.ids))


def noted(path: Path, mailbox: int, owner: str) -> list[str]:
    """Return the ids of this owner's deliveries that ``heal`` found complete."""
    fd = disk.open_own(_notes(path, owner), mailbox)
    if fd is None:
        return []
    with disk.closing(fd):
        ids: list[str] = json.loads(disk.read(fd, os.fstat(fd).st_size, 0))
    return ids


def is_noted(path: Path, owner: str) -> bool:
    """Whether ``noted`` has something to return, or ``heal`` may find something."""
    return _notes(path, owner).exists() or _journal(path).exists()


def forget_noted(path: Path, owner: str) -> None:
    """Remove the note: the owner has recorded the ids."""
    disk.drop(_notes(path, owner))


def _note(path: Path, mailbox: int, owner: str, ids: list[str]) -> None:
    known = noted(path, mailbox, owner)
    draft = Path(f"{_notes(path, owner)}.new")
    disk.remove(draft)
    with disk.closing(disk.create(draft)) as fd:
        disk.write(fd, json.dumps(list(dict.fromkeys(known + ids))).encode(), 0)
        disk.sync(fd)
    disk.rename(draft, _notes(path, owner))


def _create(path: Path, mailbox: int, owner: str, messages: Sequence[Delivery]) -> tuple[int, _Batch]:
    """Write the journal; it is whole on disk, and so is its name, when this returns."""
    status = os.fstat(mailbox)
    offset = status.st_size
    lead = separator(disk.read(mailbox, 3, max(0, offset - 3)))
    with contextlib.ExitStack() as undo:
        journal = disk.create(_journal(path))
        undo.callback(forget, path)
        undo.callback(os.close, journal)
        whole = disk.new_hash()
        length = 0
        for data in _gather(itertools.chain([lead], *map(_render, messages))):
            whole.update(data)
            disk.write(journal, data, length)
            length += len(data)
        ids = [message.id for message in messages]
        anchor = plan.anchor(mailbox, offset)
        batch = _Batch(status.st_ino, offset, anchor, len(lead), length, whole.hexdigest(), owner, ids)
        text = json.dumps({field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}).encode()
        disk.write(journal, text + _FOOTER.pack(len(text), disk.hash_of([text]), _MAGIC), length)
        disk.sync(journal)
        disk.sync_directory(_journal(path))
        undo.pop_all()
    return journal, batch


def _load(journal: int) -> _Batch | None:
    """Read a journal; None when it was not written to its end."""
    end = os.fstat(journal).st_size - _FOOTER.size
    if end < 0:
        return None
    length, digest, magic = _FOOTER.unpack(disk.read(journal, _FOOTER.size, end))
    if magic != _MAGIC or length > end:
        return None
    text = disk.read(journal, length, end - length)
    if disk.hash_of([text]) != digest:
        return None
    batch = _Batch(**json.loads(text))
    whole = disk.hash_of(disk.pieces(journal, 0, batch.length)).hex()
    return batch if whole == batch.hash else None


def _render(message: Delivery) -> Iterator[bytes]:
    """The message as it stands in the mailbox, in pieces, with the empty line behind it."""
    yield from_line(message.sender, message.when)
    if isinstance(message.content, bytes) and len(message.content) <= disk.PIECE:
        yield to_stored(message.content)
        yield b"\n"
        return
    stored = ToStored()
    for data in _read(message.content):
        yield stored.feed(data)
    yield stored.finish() + b"\n"


def _read(content: bytes | BinaryIO | Path) -> Iterator[bytes]:
    if isinstance(content, Path):
        with content.open("rb") as file:
            yield from _read(file)
    elif isinstance(content, bytes):
        yield from (content[at : at + disk.PIECE] for at in range(0, len(content), disk.PIECE))
    else:
        while data := content.read(disk.PIECE):
            yield data


def _gather(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces, so that a message of a few lines costs no system call of its own."""
    gathered: list[bytes] = []
    length = 0
    for piece in pieces:
        gathered.append(piece)
        length += len(piece)
        if length >= disk.PIECE:
            yield b"".join(gathered)
            gathered.clear()
            length = 0
    yield b"".join(gathered)


def _has_place(mailbox: int, batch: _Batch) -> bool:
    """Whether the mailbox is still what the batch was appended to."""
    status = os.fstat(mailbox)
    return (
        status.st_ino == batch.inode
        and status.st_size >= batch.offset
        and plan.anchor(mailbox, batch.offset) == batch.anchor
    )


def _is_complete(mailbox: int, batch: _Batch) -> bool:
    end = batch.offset + batch.length
    return (
        os.fstat(mailbox).st_size >= end and disk.hash_of(disk.pieces(mailbox, batch.offset, end)).hex() == batch.hash
    )


def _written(mailbox: int, journal: int, batch: _Batch) -> int:
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


def _take_back(path: Path, mailbox: int, batch: _Batch, written: int) -> None:
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
