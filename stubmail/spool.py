"""Files that survive a crash: either the whole new file is there under its name, or what was there before."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

_TEMPORARY = ".tmp-"


def write_durably(path: Path, data: bytes | Iterable[bytes], mode: int = 0o600) -> None:
    """Write ``path`` so that it is on disk, whole, when this returns; an older file of that name is replaced.

    Written under a temporary name beside it, fsynced, renamed, and the directory fsynced. Raises OSError, and then
    what was there before is still there; only when the directory cannot be fsynced, the new file is, for now.
    """
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """Remove a file so that it does not come back after a crash; none there is no error."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Write a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clean_temporary(directory: Path) -> int:
    """Remove what writers that died left unfinished; call it while nobody writes. Returns how many files went."""
    leftovers = list(directory.glob(_TEMPORARY + "*"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)
