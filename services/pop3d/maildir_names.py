"""Names of files in a Maildir (cr.yp.to/proto/maildir.html)."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_UID = re.compile(r"[\x21-\x7e]{1,70}")
_TIME = re.compile(r"[0-9]{1,20}")


def messages_in(directory: Path) -> list[str]:
    """List the messages of a directory: regular files whose names do not begin with a dot."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.name[0] != "." and entry.is_file(follow_symlinks=False)]


def base_of(name: str) -> str:
    """Return the name without flags."""
    return name.partition(":")[0]


def order(name: str) -> tuple[int, str]:
    """Sort by the time of delivery that a name begins with, in Unix time or 0 when there is none, then by name."""
    time = _TIME.match(name)
    return int(time[0]) if time else 0, name


def unique_ids(names: Sequence[str], imported: Mapping[int, str]) -> list[str]:
    """Return an id for each name: the imported one, or the name without its flags where that may be one, or a hash."""
    uids: list[str] = []
    seen = {base_of(name) for index, name in enumerate(names) if index not in imported}
    bases: set[str] = set()
    for index, name in enumerate(names):
        uid = imported.get(index, "")
        if not uid or uid in seen:
            uid = base = base_of(name)
            if not _UID.fullmatch(base) or base in bases:
                uid = "~" + hashlib.blake2b(os.fsencode(name if base in bases else base), digest_size=16).hexdigest()
            bases |= {base, uid}
        uids.append(uid)
    return uids
