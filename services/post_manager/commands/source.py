"""What `post_manager backup`, `verify` and `migrate` read: one state of the configured database."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from services.post_manager import service
from services.post_manager.settings import PostManager
from services.post_manager.storage import damage, marks, schema
from services.post_manager.storage.engines import sqlite_path
from services.post_manager.storage.errors import StorageDamaged
from services.post_manager.storage.snapshot import Snapshot, file_snapshot, snapshot
from stubmail.errors import Exit


@contextlib.contextmanager
def open_snapshot(section: PostManager) -> Iterator[Snapshot]:
    """One state of the store's database; an SQLite file is not opened for writing, nor are its tables changed.

    Raises Exit when there is no such database, or its tables have another version.
    """
    path = sqlite_path(section.database_url)
    if path is None:
        with contextlib.closing(service.open_database(section, 1)) as database, snapshot(database) as source:
            yield source
        return
    if not path.exists():
        raise Exit(os.EX_NOINPUT, f"there is no database {path}")
    with file_snapshot(path) as source:
        _refuse_other(path, source)
        yield source


def _refuse_other(path: Path, source: Snapshot) -> None:
    try:
        marks.refuse_marked(source.connection)
        version = schema.version_of(source.connection)
    except StorageDamaged as error:
        raise Exit(os.EX_DATAERR, f"{path} is damaged or not a store's ({error.text})") from error
    if version != schema.VERSION:
        what = f"{path} has version {version} of the tables, this program needs {schema.VERSION}"
        raise Exit(os.EX_CONFIG, f"{what}; start post_manager once")


def refuse_own_file(section: PostManager, file: Path) -> None:
    """Raise Exit when a file to be written is the store's own database, or belongs to it."""
    path = sqlite_path(section.database_url)
    if path is None or not path.exists():
        return
    own = [path, damage.marker(path), damage.side(path), *(path.with_name(path.name + s) for s in damage.WRITE_AHEAD)]
    if file.resolve() in {name.resolve() for name in own}:
        raise Exit(os.EX_USAGE, f"{file} belongs to the store itself")
