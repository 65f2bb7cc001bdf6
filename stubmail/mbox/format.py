"""The mboxrd format, octets in and octets out: the ``From `` line, quoting, and the way back to wire form.

A stored message is its ``From `` line, its content with LF line ends, and one empty line. On the way in every line end
(CRLF, LF, a bare CR) becomes LF, a missing last one is added, and each line that is ``From `` behind any number of
``>`` gets one ``>`` more; so no content line can pass for a ``From `` line, and nothing is ambiguous. On the way out
``>`` is taken off again and every line end becomes CRLF, also in what legacy programs stored with CRLF or bare CR.
A message in which CR and LF occur only together (RFC 5322 §2.3) therefore comes out octet for octet as it went in.
Quoting looks at lines that end in LF alone, because that is how legacy programs wrote them.
"""

import re
import time
from functools import lru_cache

from stubmail.line_ends import LineEnds, whole

MAX_SENDER = 512  # octets; RFC 5321 §4.5.3.1.3 allows a path of 256

_UNSAFE = re.compile(rb"[\x00-\x20\x7f]+")
_LAST_SECOND = 253402300799  # of the year 9999: asctime has four digits for a year

_BARE_CR = re.compile(rb"\r(?!\n)")
_FROM = re.compile(rb"\n(>*From )")
_QUOTED = re.compile(rb"\n>(>*From )")
# A last line of which it is not yet known whether it is a From_ line; of a run of ">" one stands for all.
_UNDECIDED = re.compile(rb"\n(>?)>*((?:F(?:r(?:om?)?)?)?)")


@lru_cache(maxsize=64)  # a batch has few senders and one time
def from_line(sender: str, when: float) -> bytes:
    """Return the ``From `` line, LF included: envelope sender (``MAILER-DAEMON`` when empty) and time (UTC).

    What could end the line or shift its fields, spaces and control characters, becomes ``-`` (RFC 4155, mbox(5)).
    """
    octets = _UNSAFE.sub(b"-", sender.encode("utf-8", "replace"))[:MAX_SENDER] or b"MAILER-DAEMON"
    date = time.asctime(time.gmtime(min(max(0, when), _LAST_SECOND)))
    return b"From " + octets + b" " + date.encode("ascii") + b"\n"


def quoted(text: bytes) -> bool:
    """Tell whether ``>From `` is in it, anywhere."""
    # Most mail has no such line; which way it is searched is all the same, and this takes a third of the time.
    return b">" in text and text.rfind(b">From ") >= 0


def _undecided(window: bytes) -> tuple[bytes, bytes] | None:
    """The ``>`` and the part of ``From `` on the last line when nothing else is on it, else None."""
    line = window.rfind(b"\n")
    match = _UNDECIDED.fullmatch(window, line) if line >= 0 else None
    return (match[1], match[2]) if match else None


class ToStored:
    """Turns message content, fed in any pieces, into its stored form."""

    def __init__(self) -> None:
        self._cr = b""  # a CR whose LF may come with the next piece
        self._start = b"\n"  # the line end before the next octet and a part of "From ", or nothing inside a line
        self._last = b""

    def feed(self, data: bytes) -> bytes:
        """Return what is now certain of the stored form."""
        text = self._cr + data
        self._cr = b"\r" if text.endswith(b"\r") else b""
        text = text.removesuffix(b"\r")
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return self._quote(text)

    def finish(self) -> bytes:
        """Return the rest; the last line is complete then. Content without any octet stays empty."""
        rest = self._quote(b"\n" if self._cr else b"") + self._start[1:]
        self._cr, self._start = b"", b""
        self._last = rest[-1:] or self._last
        return rest + b"\n" if self._last not in (b"", b"\n") else rest

    def _quote(self, text: bytes) -> bytes:
        virtual = len(self._start[:1])
        window = self._start + text
        open_line = _undecided(window)
        # The run of ">" may go out at once, the one that is added may follow it; only a part of "From " must wait.
        self._start = b"\n" + open_line[1] if open_line else b""
        done = window[: len(window) - len(open_line[1])] if open_line else window
        if b"From " in done:
            done = _FROM.sub(rb"\n>\1", done)
        done = done[virtual:]
        self._last = done[-1:] or self._last
        return done


def to_stored(content: bytes) -> bytes:
    """Return what ToStored makes of the whole content."""
    if _BARE_CR.search(content):
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    else:
        content = content.replace(b"\r", b"")  # nine times as fast as to replace CRLF
    if content and not content.endswith(b"\n"):
        content += b"\n"
    if b"From " in content:
        content = _FROM.sub(rb"\n>\1", b"\n" + content)[1:]
    return content


class ToWire:
    """Turns stored content, fed in any pieces, into wire form: unquoted, CRLF line ends, not dot-stuffed."""

    def __init__(self) -> None:
        self._start = b"\n"  # as in ToStored, with a ">" that may have to go
        self._line_ends = LineEnds()

    def feed(self, data: bytes) -> bytes:
        """Return what is now certain of the wire form."""
        virtual = len(self._start[:1])
        window = self._start + data
        open_line = _undecided(window)
        held = b"".join(open_line) if open_line else b""
        self._start = b"\n" + held if open_line else b""
        done = window[: len(window) - len(held)]
        if quoted(done):
            done = _QUOTED.sub(rb"\n\1", done)
        return self._line_ends.feed(done[virtual:])

    def finish(self) -> bytes:
        """Return the rest; the last line ends in CRLF then. Content without any octet stays empty."""
        return self._line_ends.feed(self._start[1:]) + self._line_ends.finish()


def to_wire(content: bytes) -> bytes:
    """Return what ToWire makes of the whole stored content."""
    if quoted(content):
        content = _QUOTED.sub(rb"\n\1", b"\n" + content)[1:]
    return whole(content)


class WireLength:
    """Counts the octets that ToWire would return for stored content, fed in any pieces, without making them."""

    def __init__(self) -> None:
        self._start = b"\n"
        self._last = b""
        self._octets = 0

    def feed(self, data: bytes) -> None:
        """Count a piece."""
        if data:
            self._octets += _line_length(data, self._start) - 2 * (self._last == b"\r" and data.startswith(b"\n"))
            open_line = _undecided(data if b"\n" in data else self._start + data)
            self._start = b"\n" + b"".join(open_line) if open_line else b""
            self._last = data[-1:]

    def finish(self) -> int:
        """Return the whole length, the CRLF of an unfinished last line included."""
        return self._octets + _missing_end(self._last)


def wire_length(content: bytes) -> int:
    """Return the number of octets that ToWire makes of the whole stored content."""
    return _line_length(content, b"\n") + _missing_end(content[-1:])


def _line_length(data: bytes, start: bytes) -> int:
    octets = len(data) + data.count(b"\n")
    if b"\r" in data:
        octets += data.count(b"\r") - 2 * data.count(b"\r\n")
    if quoted(data) or (start and data[:1] in b">From "):
        octets -= len(_QUOTED.findall(start + data))
    return octets


def _missing_end(last: bytes) -> int:
    return 0 if last in (b"", b"\r", b"\n") else 2
