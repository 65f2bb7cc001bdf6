"""Finding the messages of a Maildir, their sizes and ids, without reading again what is known.

That is how many octets each is on the wire, and the unique-id that another server wrote into it (X-UIDL). Anybody may
write one: it is the message's if no other has or had it, as far as the file with the listing remembers, and else it
has none for good.
"""

import logging
import os
import re
import time
from array import array
from contextlib import suppress
from pathlib import Path

from services.pop3d.index_cache import IndexCache, spots
from services.pop3d.maildir_listing import Listing
from services.pop3d.maildir_names import base_of, messages_in, order
from services.pop3d.maildir_twins import set_apart
from stubmail.line_ends import LineEnds
from stubmail.log import event
from stubmail.mbox.disk import closing
from stubmail.mbox.scan import HEAD, find_uidl
from stubmail.mbox.snapshot import Signature, settled, signature
from stubmail.spool import write_durably

NAME = ".pop3d-sizes"
CHUNK = 262_144
GONE = 1000  # unique-ids of messages that are no more, the latest

_log = logging.getLogger("pop3d")

_OURS = re.compile(r"~[0-9a-f]{32}|-")  # ids that are made up for files whose names cannot be one; none


class Sizes:
    """The listing of the Maildir at ``path``, kept in a file there, and in ``cache``.

    Both save time only: when the file is lost or damaged, messages are read. While cur has not changed since it was
    listed, some of the files are looked at, and else all of them; those that do not look as they did are read. RETR
    looks again.
    """

    def __init__(self, path: Path, cache: IndexCache | None = None) -> None:
        self._cur = path / "cur"
        self._path = path / NAME
        self._cache = cache or IndexCache(0)

    def listing(self) -> Listing:
        """Return what is in cur now. Raises OSError when it cannot be read."""
        old = self._cache.load(self._path, Listing)
        with closing(os.open(self._cur, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as cur:
            seen, now = signature(cur), time.time()
            if old is not None and old.settled and old.seen == seen and _spot_check(cur, old):
                return old
            new = _look(self._cur, cur, old, seen, settled(seen, now))
        if new != old:
            self.save(new)
        return new

    def save(self, listing: Listing) -> None:
        """Write the file anew; a directory that refuses costs time only."""
        with suppress(OSError):
            write_durably(self._path, listing.to_wire())

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def _spot_check(cur: int, listing: Listing) -> bool:
    """Compare the last file and some others with what they looked like."""
    try:
        return all(listing.is_as_it_was(at, _status(cur, listing.names[at])) for at in spots(len(listing.names)))
    except OSError:
        return False


def _status(cur: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=cur, follow_symlinks=False)


def _look(path: Path, cur: int, old: Listing | None, seen: Signature, is_settled: bool) -> Listing:
    """List the directory ``cur``, which is at ``path``, and read the messages that are not known."""
    known = {base_of(name): at for at, name in enumerate(old.names)} if old is not None else {}
    known_names = set(old.names) if old is not None else set[str]()
    before = old.imported if old is not None else {}
    gone = list(old.gone) if old is not None else []
    taken = {*gone, *before.values()}
    names: list[str] = []
    sizes, times, octets = array("Q"), array("q"), array("Q")
    imported: dict[int, str] = {}
    for name in sorted(set_apart(cur, messages_in(path), known_names), key=order):
        try:
            status = _status(cur, name)
            at = known.get(base_of(name))
            if old is not None and at is not None and old.is_as_it_was(at, status):
                length, uidl = old.octets[at], before.get(at, "")
            else:
                length, uidl = _read(path / name)
                if uidl in taken and (at is None or uidl != before.get(at)):
                    uidl = ""
        except FileNotFoundError:  # another program removed or renamed it: the next session sees that
            continue
        except PermissionError as error:  # the others are served; the next session tries it again
            event(_log, "unreadable", level=logging.WARNING, file=path / name, reason=error.strerror)
            is_settled = False
            continue
        if uidl:
            taken.add(uidl)
            imported[len(names)] = uidl
        names.append(name)
        for column, value in ((sizes, status.st_size), (times, status.st_mtime_ns), (octets, length)):
            column.append(value)
    present = set(imported.values())
    gone = [*gone, *(uidl for uidl in before.values() if uidl not in present)][-GONE:]
    return Listing(seen, is_settled, names, sizes, times, octets, imported, gone)


def _read(path: Path) -> tuple[int, str]:
    """Count what RETR will transmit, and find the id that another server wrote into the message."""
    line_ends, octets, head = LineEnds(), 0, b""
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            head = head or data[:HEAD]
            octets += len(line_ends.feed(data))
    uidl = find_uidl(head)
    return octets + len(line_ends.finish()), "" if _OURS.fullmatch(uidl) else uidl
