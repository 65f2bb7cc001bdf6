"""Files of a Maildir that have one name but for flags: each gets one of its own, and with it an id of its own.

Deliverers that give a name twice, and programs that copy mail, make such files. Were they left, the id of one would
pass to another when it goes, and a client that keeps ids would never fetch that other.
"""

import os
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress

from services.pop3d.maildir_names import base_of

TOKEN_SIZE = 8  # octets of chance in a new name


def another(name: str) -> str:
    """Return a new name that keeps the time, the sizes and the flags that ``name`` tells."""
    base, colon, flags = name.partition(":")
    unique, comma, sizes = base.partition(",")
    return f"{unique}_{secrets.token_hex(TOKEN_SIZE)}{comma}{sizes}{colon}{flags}"


def set_apart(cur: int, names: Collection[str], known: Collection[str]) -> list[str]:
    """Rename files of the directory ``cur`` until no two have one name but for flags; returns the names of all.

    One that is ``known`` keeps its name, or else the oldest. A file that has two such names is left alone, as some
    programs change flags that way; so is what cannot be renamed.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(base_of(name), []).append(name)
    if len(groups) == len(names):
        return list(names)
    return [name for group in groups.values() for name in (_apart(cur, group, known) if group[1:] else group)]


def _apart(cur: int, names: Sequence[str], known: Collection[str]) -> list[str]:
    """Do so with files of one name."""
    files = []
    for name in names:
        with suppress(FileNotFoundError):  # it went meanwhile
            status = os.stat(name, dir_fd=cur, follow_symlinks=False)
            files.append((name not in known, status.st_mtime_ns, name, status.st_ino))
    files.sort()
    apart = []
    for _, _, name, inode in files:
        new = name if inode == files[0][3] else another(name)
        try:
            os.rename(name, new, src_dir_fd=cur, dst_dir_fd=cur)
        except OSError:
            new = name
        apart.append(new)
    return apart
