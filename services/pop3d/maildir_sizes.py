"""What reading the messages of a Maildir has told, kept in a file so that a login need not read them all.

That is how many octets each is on the wire, and the unique-id that another server wrote into it (X-UIDL). Anybody may
write one: it is the message's if no other has or had it, as far as this file remembers, and else it has none for good.
"""

import os
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stubmail.line_ends import LineEnds
from stubmail.mbox.scan import HEAD, find_uidl
from stubmail.spool import write_durably

NAME = ".pop3d-sizes"
CHUNK = 262_144

GONE = 1000  # unique-ids of messages that are no more, the latest

_HEAD = b"pop3d sizes 2\n"
_OURS = re.compile(r"~[0-9a-f]{32}|-")  # ids that are made up for files whose names cannot be one; none


@dataclass(frozen=True, slots=True)
class FileState:
    """What a message's file looked like, how many octets RETR transmits of it, and its imported id if it has one."""

    size: int
    mtime: int
    octets: int
    uidl: str = ""

    def describes(self, status: os.stat_result) -> bool:
        """Tell whether the file still looks like that."""
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime)


class Sizes:
    """What is known of the messages in the Maildir at ``path``, by file name without flags.

    The file is a cache: when it is lost or damaged, or does not fit a message's size and time of change, that message
    is read. RETR compares again.
    """

    def __init__(self, path: Path) -> None:
        self._old, self._gone = _load(path / NAME)
        self._new: dict[str, FileState] = {}
        self._taken = {*self._gone, *(state.uidl for state in self._old.values())}

    def look(self, file: Path, base: str) -> FileState:
        """Return the state of one message's file. Raises OSError when it cannot be read."""
        status = file.lstat()
        known = self._old.get(base)
        if known is None or not known.describes(status):
            octets, uidl = _read(file)
            if uidl in self._taken and (known is None or uidl != known.uidl):
                uidl = ""
            self._taken.add(uidl)
            known = FileState(status.st_size, status.st_mtime_ns, octets, uidl)
        self._new[base] = known
        return known

    def save(self, path: Path) -> None:
        """Write the file anew if it does not say what was found; a directory that refuses costs time only."""
        if self._new != self._old:
            lines = [
                f"{state.size} {state.mtime} {state.octets} {state.uidl or '-'} {base}\n"
                for base, state in self._new.items()
                if "\n" not in base
            ]
            present = {state.uidl for state in self._new.values()}
            left = [state.uidl for state in self._old.values() if state.uidl and state.uidl not in present]
            lines += [f"{uidl}\n" for uidl in [*self._gone, *left][-GONE:]]
            body = "".join(lines).encode("utf-8", "surrogateescape")
            with suppress(OSError):
                write_durably(path / NAME, _HEAD + b"%08x\n" % zlib.crc32(body) + body)

    @staticmethod
    def forget(path: Path) -> None:
        """Remove the file."""
        (path / NAME).unlink(missing_ok=True)


def _load(path: Path) -> tuple[dict[str, FileState], list[str]]:
    """Read the file: states by name, and ids of messages that are no more. What is damaged or not there is nothing."""
    try:
        data = path.read_bytes()
    except OSError:
        return {}, []
    checksum, _, body = data.removeprefix(_HEAD).partition(b"\n")
    if not data.startswith(_HEAD) or checksum != b"%08x" % zlib.crc32(body):
        return {}, []
    known, gone = {}, []
    for line in body.decode("utf-8", "surrogateescape").split("\n")[:-1]:
        if " " not in line:
            gone.append(line)
            continue
        size, mtime, octets, uidl, base = line.split(" ", 4)
        known[base] = FileState(int(size), int(mtime), int(octets), "" if uidl == "-" else uidl)
    return known, gone


def _read(path: Path) -> tuple[int, str]:
    """Count what RETR will transmit, and find the id that another server wrote into the message."""
    line_ends, octets, head = LineEnds(), 0, b""
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            head = head or data[:HEAD]
            octets += len(line_ends.feed(data))
    uidl = find_uidl(head)
    return octets + len(line_ends.finish()), "" if _OURS.fullmatch(uidl) else uidl
