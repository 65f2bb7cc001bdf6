"""Octets of the protocol: lines and commands from the client, status lines to it (RFC 1939 §3, RFC 2449 §4)."""

import re

MAX_LINE = 255  # octets of a command with its CRLF, RFC 2449 §4
MAX_RESPONSE = 12_288  # octets of an AUTH command or of a line that answers a challenge, RFC 5034 §4
MAX_DIGITS = 10  # of a message number or a count of lines: no maildrop comes near


class WireError(Exception):
    """What the client sent is not a command in the grammar; the text may be told to it."""


class LineTooLong(WireError):
    """The line is over its limit: what follows cannot be told from a command, so the session must end."""


class LineBuffer:
    """Cuts what arrives into lines; holds no more than the caller feeds, and nothing at all while nothing waits."""

    __slots__ = ("_data", "_searched", "_start")

    def __init__(self) -> None:
        self._data = b""
        self._start = 0  # of the first line not yet taken
        self._searched = 0  # no line feed is before this offset

    def __len__(self) -> int:
        """Return how many octets wait."""
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Add what arrived."""
        if self._start:
            self._searched -= self._start
            self._data = self._data[self._start :]
            self._start = 0
        self._data += data

    def starts_with(self, keyword: bytes) -> bool:
        """Tell whether the next line begins with ``keyword``, given in capitals."""
        return self._data[self._start : self._start + len(keyword)].upper() == keyword

    def take(self, limit: int) -> bytes | None:
        """Return the next line without its end, or None while it is not whole.

        The end is CRLF; a bare LF is taken for one, as a person on a terminal sends it. Raises LineTooLong as soon as
        the line cannot be ``limit`` octets or less, end included.
        """
        if not self._data:
            return None
        start = self._start
        end = self._data.find(b"\n", self._searched)
        length = (end + 1 if end >= 0 else len(self._data) + 1) - start
        if length > limit:
            raise LineTooLong("Line too long")
        if end < 0:
            self._searched = len(self._data)
            return None
        line = self._data[start:end]
        if end + 1 == len(self._data):
            self.clear()
        else:
            self._start = self._searched = end + 1
        return line.removesuffix(b"\r")

    def matching(self, lines: re.Pattern[bytes]) -> bytes:
        """Return the lines that come next, none of them taken, as far as they match a pattern of whole lines."""
        found = lines.match(self._data, self._start)
        return found[0] if found else b""

    def skip(self, octets: int) -> None:
        """Take whole lines of so many octets."""
        if octets == len(self):
            self.clear()
        elif octets:
            self._start = self._searched = self._start + octets

    def rest(self) -> bytes:
        """Return what waits."""
        return self._data[self._start :]

    def clear(self) -> None:
        """Forget what waits."""
        self._data = b""
        self._start = self._searched = 0


def parse_command(line: bytes) -> tuple[bytes, bytes]:
    """Split a line into the keyword, in capitals, and all that follows the first space, as it came.

    Any octets are a command; whether it exists is the session's to say.
    """
    keyword, _, argument = line.partition(b" ")
    return keyword.upper(), argument


def parse_numbers(argument: bytes, least: int, most: int) -> list[int]:
    """Parse from ``least`` to ``most`` decimal numbers, one space between them, trailing spaces ignored.

    ASCII digits alone make a number: ``+1``, ``1_0`` and other scripts' digits are refused. Raises WireError.
    """
    if least == 1 and argument.isdigit() and len(argument) <= MAX_DIGITS:  # as in nearly all commands there are
        return [int(argument)]
    words = argument.rstrip(b" ").split(b" ") if argument.strip(b" ") else []
    if len(words) < least:
        raise WireError("An argument is missing")
    if len(words) > most:
        raise WireError("Too many arguments")
    for word in words:
        if not word.isdigit():  # of bytes: ASCII only
            raise WireError("The argument must be a number")
        if len(word) > MAX_DIGITS:
            raise WireError("The number is too large")
    return [int(word) for word in words]


def ok(text: str = "") -> bytes:
    """Return a positive status line."""
    return f"+OK {text}\r\n".encode() if text else b"+OK\r\n"


def err(text: str, code: str = "") -> bytes:
    """Return a negative status line, with a response code (RFC 2449 §8, RFC 3206) where one applies."""
    return f"-ERR [{code}] {text}\r\n".encode() if code else f"-ERR {text}\r\n".encode()


def retrieved(octets: int) -> bytes:
    """Return the status line of RETR; the message follows."""
    return b"+OK %d octets\r\n" % octets
