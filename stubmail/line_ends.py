"""Line ends of stored mail on their way out: every one becomes CRLF, wherever the octets are cut (RFC 1939 §11)."""


class LineEnds:
    """Turns content, fed in any pieces, into lines that end with CRLF: CRLF, LF and a bare CR are line ends alike.

    A last line without an end gets one; all other octets, NUL among them, stay as they are.
    """

    def __init__(self) -> None:
        self._cr = b""  # a CR whose LF may come with the next piece
        self._last = b"\n"

    def feed(self, data: bytes) -> bytes:
        """Return what is now certain."""
        text = self._cr + data
        self._cr = b"\r" if text.endswith(b"\r") else b""
        text = text.removesuffix(b"\r")
        self._last = text[-1:] or self._last
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return text.replace(b"\n", b"\r\n")

    def finish(self) -> bytes:
        """Return the rest. Content without any octet stays empty."""
        return b"\r\n" if self._cr or self._last not in b"\r\n" else b""


def whole(content: bytes) -> bytes:
    """Return what LineEnds makes of the whole content."""
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if content and not content.endswith(b"\n"):
        content += b"\n"
    return content.replace(b"\n", b"\r\n")
