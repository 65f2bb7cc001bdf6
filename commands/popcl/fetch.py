"""What is to be done with a maildrop: each message into its file, and deleted at the server only when it is there."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from commands.popcl import listings
from commands.popcl.names import Header, name_of
from commands.popcl.out_dir import OutDir
from commands.popcl.protocol import Expect, ProtocolError
from commands.popcl.session import Session, refusal
from stubmail import log
from stubmail.errors import StubmailError, TemporaryError

Progress = Callable[[int, int], None]

SLACK = 2**20  # octets that a message may have beyond twice the announced ones: some servers count line ends singly

logger = logging.getLogger("popcl")


@dataclass
class Outcome:
    """What became of the messages; it is true at any moment, also when an error ends the work."""

    downloaded: int = 0
    deleted: int = 0
    failures: list[str] = field(default_factory=list)  # one sentence for each message that the server refused


@dataclass(frozen=True)
class Wishes:
    """What the user asked for."""

    new_only: bool = False
    delete: bool = False


def nothing(octets: int, total: int) -> None:
    """Report progress to nobody."""


class Fetcher:
    """Fetches from one session into one directory."""

    def __init__(self, session: Session, out: OutDir) -> None:
        """Ask what there is. Raises StubmailError, ProtocolError."""
        self.outcome = Outcome()
        self._session = session
        self._out = out
        self._progress: Progress = nothing
        count = listings.parse_stat(session.require("STAT", "STAT").text)
        self._numbers = range(1, count + 1)
        sizes = session.listing("LIST", count) if count else None
        self._sizes = None if sizes is None else listings.parse_sizes(sizes, count)
        uids = session.listing("UIDL", count) if count else None
        self._uids = listings.Uids(() if uids is None else uids, count)

    @property
    def count(self) -> int:
        """How many messages the maildrop holds."""
        return len(self._numbers)

    def run(self, wishes: Wishes, progress: Progress = nothing) -> None:
        """Fetch, delete what was fetched if that is wished, and end the session. Raises StubmailError, ProtocolError.

        ``progress`` is told octets: so many more, of so many in all.
        """
        self._progress = progress
        by_header = wishes.new_only and not wishes.delete and not self._out.is_empty
        here = self._fetch(self._new() if by_header else self._numbers, wishes)
        self._out.sync()
        if wishes.delete:
            self._delete(here)
        else:
            self.leave()

    def leave(self) -> None:
        """End a session in which nothing was marked: whatever the server answers, nothing depends on it."""
        with suppress(StubmailError, ProtocolError):
            self._session.quit()

    def _new(self) -> list[int]:
        """Return the messages that the directory does not have, by their headers alone where the server does TOP."""
        new = []
        for part in (self._numbers[:1], self._numbers[1:]):  # a server may hang up on many wrong commands
            for number, status, pieces in self._session.exchange("TOP", part, Expect.LINES, " 0"):
                if number == 1 and not status.ok:
                    return list(self._numbers)
                header = Header()
                for octets in self._bounded(number, pieces):
                    header.feed(octets)
                message_id, uid = header.message_id(), self._uids[number]
                if not (message_id or uid) or not self._out.had(name_of(message_id, uid, "")):
                    new.append(number)
        return new

    def _fetch(self, wanted: Sequence[int], wishes: Wishes) -> list[int]:
        """Fetch messages and return the numbers of those that are in the directory now."""
        here = []
        total = sum(self._sizes[number - 1] for number in wanted) if self._sizes else 0
        for number, status, pieces in self._session.exchange("RETR", wanted, Expect.LINES):
            if status.ok:
                self._store(number, self._bounded(number, pieces), wishes, total)
                here.append(number)
            else:
                self.outcome.failures.append(refusal(status, f"the server refuses message {number}").text)
        return here

    def _store(self, number: int, pieces: Iterator[bytes], wishes: Wishes, total: int) -> None:
        """Have one message on disk, unless something of its name was there before and new ones alone are wished.

        A message that is to be deleted at the server is not taken for one of the same name until they were compared.
        """
        header = Header()
        with self._out.draft() as draft:
            for octets in pieces:
                header.feed(octets)
                draft.write(octets)
                self._progress(len(octets), total)
            name = name_of(header.message_id(), self._uids[number], draft.digest)
            added = False
            if wishes.delete or not (wishes.new_only and self._out.had(name)):
                name, added = self._out.keep(draft, name)
        announced = self._sizes[number - 1] if self._sizes is not None else None
        what = "stored" if added else "known"
        log.event(logger, what, str(number), file=name, size=draft.size, announced=announced)
        if added or not wishes.new_only:
            self.outcome.downloaded += 1

    def _bounded(self, number: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the pieces of a message. Raises ProtocolError when they are more than can be true."""
        most = self._session.limits.message
        if self._sizes is not None:
            most = min(most, 2 * self._sizes[number - 1] + SLACK)
        size = 0
        for octets in pieces:
            size += len(octets)
            if size > most:
                raise ProtocolError(f"message {number} is larger than the server announced, or than {most} octets")
            yield octets

    def _delete(self, numbers: Sequence[int]) -> None:
        """Delete messages: they are gone when QUIT was answered, not before (RFC 1939 §6)."""
        marked = 0
        for number, status, _ in self._session.exchange("DELE", numbers, Expect.LINE):
            if status.ok:
                marked += 1
            else:
                failure = refusal(status, f"the server does not delete message {number}")
                self.outcome.failures.append(failure.text)
        try:
            status = self._session.quit()
        except TemporaryError as error:
            text = f"{error.text}: it may have deleted the messages or not; what was to be deleted is here"
            raise TemporaryError(error.code, text) from error
        if not status.ok:
            raise refusal(status, "the server may have deleted nothing", TemporaryError)
        self.outcome.deleted = marked
