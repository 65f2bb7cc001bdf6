"""What a maildrop must offer to be served, whatever its format."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from services.pop3d.actions import Listing
from stubmail.errors import TemporaryError


class InUse(TemporaryError):
    """Another session has the maildrop open (RFC 1939 §4: an exclusive-access lock for the session's length)."""

    def __init__(self) -> None:
        super().__init__("4.2.0", "another session has the maildrop open")


class Maildrop(Listing, Protocol):
    """An open maildrop, locked against other sessions until it is closed.

    It shows what was there when it was opened. All methods block, and may be called from any thread, by one at a time.
    """

    def content(self, number: int) -> Iterator[bytes]:
        """Yield message ``number``, from 1, in pieces: lines that end with CRLF, not byte-stuffed.

        Raises TemporaryError when the message is not there any more, or not as it was. When pieces have been sent by
        then, the reply must not be ended as if the message were whole.
        """

    def several(self, first: int, count: int) -> list[bytes]:
        """Return message ``first`` and those behind it, ``count`` at most, each whole and as ``content`` has it.

        They are in memory at once, so the caller asks for small ones. The list ends before the first that is not there
        any more, or not as it was: ``content`` tells why. May raise as that does.
        """

    def older(self, moment: float) -> list[int]:
        """Return the numbers of the messages that were delivered before ``moment``, in Unix time, if it is known when.

        Raises TemporaryError or OSError.
        """

    def commit(self, numbers: Sequence[int]) -> int:
        """Remove these messages durably, and nothing that was delivered since.

        Returns how many stay, as another program has changed them. Raises TemporaryError or OSError: none removed, but
        perhaps some when the disk is full.
        """

    def close(self) -> None:
        """Let the next session in. Closing twice is no error."""


class Location(Protocol):
    """Where a maildrop is; nothing is opened yet."""

    def open(self) -> Maildrop:
        """Lock the maildrop and look at it. Raises InUse, TemporaryError, PermanentError or OSError."""

    def check(self) -> None:
        """Raise PermanentError with one sentence when ``open`` would fail for reasons that waiting does not mend."""
