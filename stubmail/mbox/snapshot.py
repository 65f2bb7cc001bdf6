"""The messages of a mailbox file as one session sees them: where they are, how large on the wire, and their octets."""

from collections.abc import Iterator
from dataclasses import dataclass

CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Extent:
    """Where one message lies, as offsets in the file: its ``From `` line, the octet behind that line, its end.

    The empty line that separates it from the next message is not part of it.
    """

    start: int
    body: int
    end: int


class Snapshot:
    """A frozen view of the messages that were in the file when it was taken; it holds no lock and no open file.

    Messages are counted from 0 (POP3's number less one). ``size`` is the file's length in octets at that time.
    """

    size: int

    def __len__(self) -> int:
        """How many messages there are."""
        raise NotImplementedError

    def extent(self, index: int) -> Extent:
        """Where message ``index`` lies in the file."""
        raise NotImplementedError

    @property
    def extents(self) -> list[Extent]:
        """All extents, made on the spot from compact arrays; prefer ``extent`` in loops over large mailboxes."""
        raise NotImplementedError

    def octets(self, index: int) -> int:
        """Exactly how many octets ``chunks(index)`` yields in all. O(1)."""
        raise NotImplementedError

    def digest(self, index: int) -> bytes:
        """A hash (32 octets) of the stored content without its ``From `` line; identical twins have the same. O(1)."""
        raise NotImplementedError

    def from_line(self, index: int) -> bytes:
        """The message's ``From `` line without its line end, at most 1000 octets. Raises MboxError as chunks does."""
        raise NotImplementedError

    def chunks(self, index: int, size: int = CHUNK) -> Iterator[bytes]:
        """Yield the message as it goes over the wire, but not dot-stuffed: every line ends in CRLF, the last too.

        No chunk is empty or longer than about twice ``size`` octets; a chunk may end inside a line or a CRLF.
        Raises MboxError before the last chunk when the file has shrunk, was replaced, or holds other octets than
        when the snapshot was taken: whoever has already sent a part must break off, not end the message.
        """
        raise NotImplementedError
