"""The TRANSACTION state: what a client does with the messages of its maildrop (RFC 1939 §5 and §7); no I/O."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress, count

from services.pop3d.actions import Commit, Listing, Outcome, Retrieve, Statistics
from services.pop3d.terms import NEVER
from services.pop3d.wire import WireError, ok, parse_numbers, retrieved

LISTING_BLOCK = 100  # messages of LIST and UIDL in one piece


class Transaction:
    """One session on ``messages``: which are marked as deleted, and the commands that need a maildrop.

    ``expire``: see Terms.
    """

    __slots__ = ("_count", "_deleted", "_expire", "_messages", "_retrieved", "_size", "statistics")

    def __init__(self, messages: Listing, statistics: Statistics, expire: int = NEVER) -> None:
        self._expire = expire
        self._retrieved: set[int] | None = set() if expire == 0 else None  # they go at QUIT
        self._messages = messages
        self._deleted: bytearray | None = None  # one octet a message, 1 when marked; allotted at the first DELE
        self._count = self._size = 0  # of the messages not marked
        self._unmark()
        self.statistics = statistics
        statistics.messages, statistics.octets = self._count, self._size

    def summary(self) -> str:
        """What there is, in words."""
        return f"{self._count} message{'' if self._count == 1 else 's'} ({self._size} octets)"

    def commit(self) -> Commit:
        """Return what QUIT asks for: that the marked messages be removed, and those that may not stay."""
        marked = list(compress(count(1), self._deleted or b""))
        return Commit(marked, sorted((self._retrieved or set()).difference(marked)), max(0, self._expire))

    def committed(self, count: int) -> None:
        """So many messages are gone for good."""
        self.statistics.deleted = count

    def retrieve(self, numbers: Sequence[int]) -> bool:
        """Count messages as retrieved; returns False, and does nothing, when RETR would be refused for any of them."""
        octets, marked = self._messages.octets, self._deleted
        if not numbers or min(numbers) < 1 or max(numbers) > len(octets):
            return False
        if marked is not None and any(marked[number - 1] for number in numbers):
            return False
        self.statistics.retrieved += len(numbers)
        self.statistics.retrieved_octets += sum(octets[number - 1] for number in numbers)
        if self._retrieved is not None:
            self._retrieved.update(numbers)
        return True

    def _number(self, number: int) -> int:
        """Return a message number that exists and is not marked as deleted, or raise WireError."""
        if not 1 <= number <= len(self._messages.octets):
            raise WireError("No such message")
        if self._deleted and self._deleted[number - 1]:
            raise WireError("The message is deleted")
        return number

    def _remaining(self) -> Iterator[int]:
        marked = self._deleted
        return (index for index in range(len(self._messages.octets)) if not (marked and marked[index]))

    def _unmark(self) -> None:
        self._deleted = None
        self._count, self._size = len(self._messages.octets), self._messages.total

    def _stat(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        return ok(f"{self._count} {self._size}")

    def _list(self, argument: bytes) -> Outcome:
        octets = self._messages.octets
        if numbers := parse_numbers(argument, 0, 1):
            number = self._number(numbers[0])
            return ok(f"{number} {octets[number - 1]}")
        return self._listing_of(self.summary(), lambda index: f"{index + 1} {octets[index]}\r\n")

    def _uidl(self, argument: bytes) -> Outcome:
        messages = self._messages
        if numbers := parse_numbers(argument, 0, 1):
            number = self._number(numbers[0])
            return ok(f"{number} {messages.uid(number - 1)}")
        return self._listing_of("unique-ids follow", lambda index: f"{index + 1} {messages.uid(index)}\r\n")

    def _listing_of(self, head: str, line: Callable[[int], str]) -> Iterator[bytes]:
        """Yield a listing in blocks; each is made when it is asked for, of the messages not marked then.

        No command runs in between, so that is one moment to the client.
        """
        block = [ok(head).decode()]
        for index in self._remaining():
            block.append(line(index))
            if len(block) > LISTING_BLOCK:
                yield "".join(block).encode()
                block.clear()
        block.append(".\r\n")
        yield "".join(block).encode()

    def _retr(self, argument: bytes) -> Outcome:
        number = self._number(parse_numbers(argument, 1, 1)[0])
        octets = self._messages.octets[number - 1]
        self.statistics.retrieved += 1
        self.statistics.retrieved_octets += octets
        if self._retrieved is not None:
            self._retrieved.add(number)
        return Retrieve(number, None, retrieved(octets))

    def _top(self, argument: bytes) -> Outcome:
        number, lines = parse_numbers(argument, 2, 2)
        number = self._number(number)
        self.statistics.tops += 1
        return Retrieve(number, lines, ok(f"top of message {number}"))

    def _dele(self, argument: bytes) -> Outcome:
        number = self._number(parse_numbers(argument, 1, 1)[0])
        if self._deleted is None:
            self._deleted = bytearray(len(self._messages.octets))
        self._deleted[number - 1] = 1
        self._count -= 1
        self._size -= self._messages.octets[number - 1]
        return ok(f"message {number} deleted")

    def _rset(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        self._unmark()
        return ok(f"maildrop has {self.summary()}")

    def _noop(self, argument: bytes) -> Outcome:
        parse_numbers(argument, 0, 0)
        return ok()


COMMANDS: Mapping[bytes, Callable[[Transaction, bytes], Outcome]] = {
    b"STAT": Transaction._stat,
    b"LIST": Transaction._list,
    b"UIDL": Transaction._uidl,
    b"RETR": Transaction._retr,
    b"TOP": Transaction._top,
    b"DELE": Transaction._dele,
    b"RSET": Transaction._rset,
    b"NOOP": Transaction._noop,
}
