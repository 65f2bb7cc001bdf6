"""How many octets each message of a Maildir is on the wire, kept in a file so that a login need not read them all."""

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stubmail.line_ends import LineEnds
from stubmail.spool import write_durably

NAME = ".pop3d-sizes"
CHUNK = 262_144

_HEAD = b"pop3d sizes 1\n"


@dataclass(frozen=True, slots=True)
class FileState:
    """What a message's file looked like, and how many octets RETR transmits of it."""

    size: int
    mtime: int
    octets: int

    def describes(self, status: os.stat_result) -> bool:
        """Tell whether the file still looks like that."""
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime)


class Sizes:
    """The octets of the messages in the Maildir at ``path``, by file name without flags.

    The file is a cache: when it is lost or damaged, or does not fit a message's size and time of change, that message
    is read. RETR compares again.
    """

    def __init__(self, path: Path) -> None:
        self._old = _load(path / NAME)
        self._new: dict[str, FileState] = {}

    def look(self, file: Path, base: str) -> FileState:
        """Return the state of one message's file. Raises OSError when it cannot be read."""
        status = file.lstat()
        known = self._old.get(base)
        if known is None or not known.describes(status):
            known = FileState(status.st_size, status.st_mtime_ns, _octets(file))
        self._new[base] = known
        return known

    def save(self, path: Path) -> None:
        """Write the file anew if it does not say what was found; a directory that refuses costs time only."""
        if self._new != self._old:
            body = "".join(
                f"{state.size} {state.mtime} {state.octets} {base}\n"
                for base, state in self._new.items()
                if "\n" not in base
            ).encode("utf-8", "surrogateescape")
            with suppress(OSError):
                write_durably(path / NAME, _HEAD + b"%08x\n" % zlib.crc32(body) + body)

    @staticmethod
    def forget(path: Path) -> None:
        """Remove the file."""
        (path / NAME).unlink(missing_ok=True)


def _load(path: Path) -> dict[str, FileState]:
    """Read the file; what is damaged or not there is nothing known."""
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    checksum, _, body = data.removeprefix(_HEAD).partition(b"\n")
    if not data.startswith(_HEAD) or checksum != b"%08x" % zlib.crc32(body):
        return {}
    known = {}
    for line in body.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n") if body else ():
        size, mtime, octets, base = line.split(" ", 3)
        known[base] = FileState(int(size), int(mtime), int(octets))
    return known


def _octets(path: Path) -> int:
    """Count what RETR will transmit."""
    line_ends, octets = LineEnds(), 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            octets += len(line_ends.feed(data))
    return octets + len(line_ends.finish())
