"""A batch of messages on its way into a mailbox file, and the journal that it is written to before.

The journal:

    the batch, rendered as it stands in the mailbox, an end for a last line that had none included
    JSON: where in which file it belongs, its length and hash, whose it is, the ids
    footer (48 octets): length of the JSON, its hash, magic
"""

import contextlib
import dataclasses
import itertools
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from stubmail.mbox import disk
from stubmail.mbox.format import ToStored, from_line, to_stored
from stubmail.mbox.plan import anchor
from stubmail.mbox.scan import separator

_FOOTER = struct.Struct(">Q24s16s")
_MAGIC = b"stub-append 1\r\n\0"


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
class Batch:
    """What the journal says of the batch in it."""

    inode: int
    offset: int  # where it belongs: the end of the mailbox
    anchor: str  # hash of what precedes it there
    lead: int  # octets of it that complete what was there before
    length: int
    hash: str
    owner: str
    ids: list[str]

    def has_place(self, mailbox: int) -> bool:
        """Whether the mailbox is still what the batch was appended to."""
        status = os.fstat(mailbox)
        return (
            status.st_ino == self.inode
            and status.st_size >= self.offset
            and anchor(mailbox, self.offset) == self.anchor
        )

    def is_complete(self, mailbox: int) -> bool:
        """Whether all of it is in the mailbox."""
        end = self.offset + self.length
        return (
            os.fstat(mailbox).st_size >= end and disk.hash_of(disk.pieces(mailbox, self.offset, end)).hex() == self.hash
        )


def create(path: Path, mailbox: int, owner: str, messages: Sequence[Delivery]) -> tuple[int, Batch]:
    """Write the journal at ``path``; it is whole on disk, and so is its name, when this returns."""
    status = os.fstat(mailbox)
    offset = status.st_size
    lead = separator(disk.read(mailbox, 3, max(0, offset - 3)))
    with contextlib.ExitStack() as undo:
        journal = disk.create(path)
        undo.callback(disk.drop, path)
        undo.callback(os.close, journal)
        whole = disk.new_hash()
        length = 0
        for data in _gather(itertools.chain([lead], *map(_render, messages))):
            whole.update(data)
            disk.write(journal, data, length)
            length += len(data)
        ids = [message.id for message in messages]
        batch = Batch(status.st_ino, offset, anchor(mailbox, offset), len(lead), length, whole.hexdigest(), owner, ids)
        text = json.dumps({field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}).encode()
        disk.write(journal, text + _FOOTER.pack(len(text), disk.hash_of([text]), _MAGIC), length)
        disk.sync(journal)
        disk.sync_directory(path)
        undo.pop_all()
    return journal, batch


def load(journal: int) -> Batch | None:
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
    batch = Batch(**json.loads(text))
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
