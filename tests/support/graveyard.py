"""What a disk may hold after a power failure: every file and name of one directory as last confirmed, and since.

Of the writes and cuts that no fsync has confirmed any may be missing, of the changes of names any number of the last.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

Change = Callable[[bytearray], None]

_link = os.link  # the real one, also while a Machine stands before it


class Graveyard:
    """Remembers the directory's files by inode, alive or not, with what fsync has not yet confirmed of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._graves = directory.parent / f"{directory.name}.graveyard"  # a second name keeps the inode
        self._graves.mkdir(exist_ok=True)
        self._contents: dict[int, bytes] = {}
        self._changes: dict[int, list[Change]] = {}
        for path in directory.iterdir():
            self._bury(path)
            self._contents[path.stat().st_ino] = path.read_bytes()
        self._listings = [self._listing()]  # the confirmed one first, then one after each change of names

    def created(self, path: Path) -> None:
        """A new file has come."""
        if path.parent == self._directory and path.stat().st_ino not in self._contents:
            self._bury(path)
            self._contents[path.stat().st_ino] = b""
            self.named()

    def wrote(self, inode: int, offset: int, data: bytes) -> None:
        """Octets were written, which grows the file if need be."""

        def change(content: bytearray) -> None:
            content.extend(bytes(max(0, offset + len(data) - len(content))))
            content[offset : offset + len(data)] = data

        self._changes.setdefault(inode, []).append(change)

    def cut(self, inode: int, size: int) -> None:
        """The file was cut or grown."""

        def change(content: bytearray) -> None:
            del content[size:]
            content.extend(bytes(size - len(content)))

        self._changes.setdefault(inode, []).append(change)

    def kept(self, inode: int) -> None:
        """What was written to the file so far is on disk."""
        self._contents[inode] = self._apply(inode, lambda: True)
        self._changes.pop(inode, None)

    def named(self) -> None:
        """A name was given, moved or taken away."""
        self._listings.append(self._listing())

    def names_kept(self) -> None:
        """All names are on disk."""
        self._listings = [self._listing()]

    def lose(self, chance: random.Random) -> None:
        """Make the directory what it may be after the power has failed; this ends the watch."""
        listing = chance.choice([self._listings[0], self._listings[-1], chance.choice(self._listings)])
        odds = chance.choice([0.0, 0.5, 1.0])
        for path in list(self._directory.iterdir()):
            path.unlink()
        for name, inode in listing.items():
            (self._directory / name).hardlink_to(self._graves / str(inode))
        for inode in self._contents:
            content = self._apply(inode, lambda: chance.random() < odds)
            with (self._graves / str(inode)).open("r+b") as file:
                file.write(content)
                file.truncate()
            os.utime(self._graves / str(inode), (1, 1))  # all this was before the machine started again
        for grave in self._graves.iterdir():
            grave.unlink()
        self._graves.rmdir()

    def _apply(self, inode: int, survives: Callable[[], bool]) -> bytes:
        content = bytearray(self._contents[inode])
        for change in self._changes.get(inode, []):
            if survives():
                change(content)
        return bytes(content)

    def _bury(self, path: Path) -> None:
        _link(path, self._graves / str(path.stat().st_ino))

    def _listing(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self._directory.iterdir() if path.is_file()}
