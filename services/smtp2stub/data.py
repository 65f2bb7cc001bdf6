"""The text behind DATA (RFC 5321 §4.1.1.4): where it ends, dots unstuffed, and what may not be in it. Sans-IO."""

from enum import Enum

MAX_LINE = 998  # octets without CRLF, RFC 5321 §4.5.3.1.6

_END = b"\r\n.\r\n"


class Fault(Enum):
    """Why a message is refused although it came through whole: the enhanced code and the text to say so with."""

    TOO_LARGE = ("5.3.4", "the message is larger than this server takes")
    BARE = ("5.6.0", "a line does not end in CRLF: bare CR and LF are not allowed (RFC 5321 2.3.8)")
    NUL = ("5.6.0", "the message holds a NUL octet")
    LONG_LINE = ("5.6.0", f"a line is longer than {MAX_LINE} octets; send the part as base64 or quoted-printable")


class DataReader:
    """Takes the octets behind 354 and gives back the message, until CRLF "." CRLF.

    Only CRLF counts as a line's end, so nothing that another server might see as the end is one here, and a message
    that holds such a thing is refused (SMTP smuggling). After a fault the rest is read and thrown away, up to the end.

    ``max_size`` is in octets of the message. ``finished``: the end was seen; ``rest`` then has the octets behind it.
    ``size`` counts the message's octets; ``eight_bit`` tells whether one is over 127.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._pending = b"\r\n"  # the message begins at the beginning of a line
        self._prefix = 2  # octets of that still to be taken away
        self._line = 0  # length of the last line, so far
        self.size = 0
        self.fault: Fault | None = None
        self.finished = False
        self.eight_bit = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take octets as they came and return the part of the message that they complete."""
        if self.finished:
            raise RuntimeError("the message has ended")
        data = self._pending + data
        end = data.find(_END)
        if end >= 0:
            self.finished = True
            self.rest = data[end + len(_END) :]
            data, self._pending = data[: end + 2], b""
        else:
            keep = _kept(data)
            data, self._pending = data[: len(data) - keep], data[len(data) - keep :]
        text = data.replace(b"\r\n.", b"\r\n")  # RFC 5321 §4.5.2
        if self._prefix and text:
            text, self._prefix = text[self._prefix :], 0
        self._check(text)
        return b"" if self.fault else text

    def _check(self, text: bytes) -> None:
        self.size += len(text)
        if self.fault is None:
            self.fault = self._find_fault(text)

    def _find_fault(self, text: bytes) -> Fault | None:
        if self.size > self._max_size:
            return Fault.TOO_LARGE
        lines = text.split(b"\r\n")
        if not len(lines) - 1 == text.count(b"\r") == text.count(b"\n"):
            return Fault.BARE
        if b"\0" in text:
            return Fault.NUL
        longest = max(self._line + len(lines[0]), max(map(len, lines)))
        self._line = len(lines[-1]) + (self._line if len(lines) == 1 else 0)
        if longest > MAX_LINE:
            return Fault.LONG_LINE
        self.eight_bit = self.eight_bit or not text.isascii()
        return None


def _kept(data: bytes) -> int:
    """How many of the last octets may be the beginning of the end."""
    return next((size for size in range(len(_END) - 1, 0, -1) if data.endswith(_END[:size])), 0)
