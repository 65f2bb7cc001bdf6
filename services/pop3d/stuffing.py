"""Messages on the wire: byte-stuffing and TOP's cut, over a message in pieces cut anywhere (RFC 1939 §3, §7)."""

from collections.abc import Iterable, Iterator

END = b".\r\n"


def stuff(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Double the full stop at the beginning of each line, wherever the pieces are cut.

    ``pieces`` is a message in lines that end with CRLF. A bare LF counts as a line's end here too, so that no client,
    however lax, can take a sender's text for the end of the message. Nothing is held back: pieces in, pieces out.
    """
    line_start = True
    for piece in pieces:
        if not piece:
            continue
        stuffed = _double(piece)
        yield b"." + stuffed if line_start and stuffed.startswith(b".") else stuffed
        line_start = piece.endswith(b"\n")


def stuff_whole(message: bytes) -> bytes:
    """Return what ``stuff`` makes of a whole message."""
    if message.startswith(b"."):
        message = b"." + message
    return _double(message)


def _double(piece: bytes) -> bytes:
    # Most messages have no such line. To search from the end finds that out in a quarter of the time, and behind the
    # last full stop, which in Base64 and the like is in the header, there is nothing to search.
    return piece.replace(b"\n.", b"\n..") if piece.rfind(b"\n.", 0, piece.rfind(b".") + 1) >= 0 else piece


def top(pieces: Iterable[bytes], lines: int) -> Iterator[bytes]:
    """Yield the header, the empty line, and the first ``lines`` lines of the body; read no further than that.

    A message without an empty line is all header. ``pieces`` is a message in lines that end with CRLF.
    """
    tail = b"\r\n"  # the last octets before this piece: a message may begin with its empty line
    source = iter(pieces)
    for piece in source:
        joined = tail + piece
        end = joined.find(b"\r\n\r\n")
        if end < 0:
            yield piece
            tail = joined[-3:]
            continue
        body = end + 4 - len(tail)  # offset in piece, at least 1: the tail alone is too short to match
        yield piece[:body]
        yield from _lines(piece[body:], source, lines)
        return


def _lines(first: bytes, rest: Iterator[bytes], lines: int) -> Iterator[bytes]:
    """Yield as many whole lines as wanted from the body, which begins with ``first``."""
    piece: bytes | None = first
    while lines > 0 and piece is not None:
        here = piece.count(b"\n")
        if here >= lines:
            end = 0
            for _ in range(lines):
                end = piece.index(b"\n", end) + 1
            yield piece[:end]
            return
        lines -= here
        yield piece
        piece = next(rest, None)
