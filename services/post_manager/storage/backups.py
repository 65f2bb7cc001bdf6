"""Backups: a store's posts and contents in an SQLite file of the store's own schema, and back again.

No session, cookie or nonce is in it: secrets have no business in a backup, and clients open new sessions by themselves.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, func, insert, select, update

from services.post_manager.storage import damage, marks, schema, serials
from services.post_manager.storage.copying import Copied, Rows, copy
from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import sqlite_url
from services.post_manager.storage.errors import StorageDamaged, StorageError
from services.post_manager.storage.snapshot import Snapshot, file_snapshot
from stubmail.errors import Exit
from stubmail.spool import sync_directory

_BESIDE = (*damage.WRITE_AHEAD, "-journal", "-turn")  # what stands beside a database in use


def write(
    source: Snapshot, pages: Iterator[Rows], path: Path, now: int, *, replace: bool = False, salvage: bool = False
) -> Copied:
    """Write these posts of a snapshot to a new file; it is on disk, whole and private, when this returns.

    ``salvage``: the counter of serials is taken from the posts, if it cannot be read.
    Raises Exit when the file is there and not to be replaced, or another backup to it is at work; StorageError, and
    OSError.
    """
    _refuse_existing(path, replace)
    with _temporary(path) as temporary:
        with contextlib.closing(Database(sqlite_url(temporary), 1)) as target:
            schema.prepare(target)
            copied = copy(pages, source, target, now=None, durable=False)
            finish(_serial(source, target, salvage), target, {marks.BACKUP: now})
        close_file(temporary)
        _publish(temporary, path, replace)
    return copied


def finish(serial: int, target: Database, new_marks: dict[str, int]) -> None:
    """End a copy that kept the serials: the target's counter goes on where the source's is."""
    with target.write() as connection:
        connection.execute(update(schema.counters).where(schema.counters.c.name == schema.SERIAL).values(value=serial))
        for name, value in new_marks.items():
            marks.put(connection, name, value)


def _serial(source: Snapshot, target: Database, salvage: bool) -> int:
    try:
        return source.serial()
    except StorageError:
        if not salvage:
            raise
    with target.read() as connection:
        return int(connection.execute(select(func.coalesce(func.max(schema.posts.c.serial), 0))).scalar_one())


def close_file(path: Path) -> None:
    """Make of a database that nobody has open one file, on disk."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Snapshot]:
    """A backup, to be read. Raises Exit when the file is none, or one of another version of the tables."""
    if not path.is_file():
        raise Exit(os.EX_NOINPUT, f"there is no file {path}")
    try:
        with file_snapshot(path) as source:
            if marks.read(source.connection, marks.BACKUP) is None:
                raise Exit(os.EX_DATAERR, f"{path} is no backup that post_manager made")
            version = schema.version_of(source.connection)
            if version != schema.VERSION:
                what = f"{path} has version {version} of the tables, this program needs {schema.VERSION}"
                raise Exit(os.EX_CONFIG, f"{what}; the program that wrote it can restore it")
            yield source
    except StorageDamaged as error:
        raise Exit(os.EX_DATAERR, f"{path} is damaged or no backup ({error.text})") from error


def merge(source: Snapshot, database: Database, now: int) -> Copied:
    """Add the posts of a backup that the database has never seen, with new serials; what it knows stays as it is.

    Others go on using the database. It can be interrupted, and done again. Raises StorageError.
    """
    with database.write() as connection:
        serials.lift(connection, source.serial())
    return copy(source.pages(), source, database, now=now, durable=True)


@dataclass(frozen=True, slots=True)
class Replaced:
    """A database made anew: what it has now, where the damaged one is, and whether the store's own key was saved."""

    copied: Copied
    aside: Path | None
    with_key: bool


def put_in_place(source: Snapshot, path: Path, now: int) -> Replaced:
    """Make a new database of a backup in place of a damaged one, which is set aside.

    It can be interrupted at any point, and done again.
    """
    new = path.with_name(path.name + ".restored")
    with contextlib.closing(Database(sqlite_url(new), 1)) as target:
        schema.prepare(target)
        with_key = _save_key(path, target)
        copied = merge(source, target, now)
    close_file(new)
    _remove_beside(new)
    aside = damage.set_aside(path, now)
    new.replace(path)
    sync_directory(path.parent)
    damage.clear(path)
    return Replaced(copied, aside, with_key)


def _save_key(damaged: Path, target: Database) -> bool:
    """Have the new database go on with the store's own key, which is in no backup; tell whether it could be read."""
    try:
        with file_snapshot(damaged) as old:
            found = old.rows(select(schema.keys))
    except StorageError:
        return False
    with target.write() as connection:
        connection.execute(delete(schema.keys))
        for row in found:
            connection.execute(insert(schema.keys), dict(row._mapping))
    return bool(found)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that is this process's alone; what a process that died left there goes first."""
    temporary = path.with_name(f".{path.name}.partial")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not temporary.exists() or not os.path.samestat(temporary.stat(), os.fstat(descriptor)):
                raise BlockingIOError
        except BlockingIOError:
            raise Exit(os.EX_TEMPFAIL, f"another backup to {path} is at work") from None
        try:
            _remove_beside(temporary)
            os.ftruncate(descriptor, 0)
            yield temporary
        finally:
            _remove_beside(temporary)
            temporary.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _remove_beside(path: Path) -> None:
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _refuse_existing(path: Path, replace: bool) -> None:
    if not replace and path.exists():
        raise Exit(os.EX_CANTCREAT, f"{path} is there already; give another name, or --force to replace it")


def _publish(temporary: Path, path: Path, replace: bool) -> None:
    """Give the finished file its name; an older one is replaced only when that was asked for."""
    if not replace:
        try:
            os.link(temporary, path)  # unlike a rename, it never replaces what came there meanwhile
        except FileExistsError:
            _refuse_existing(path, replace)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            _refuse_existing(path, replace)  # a file system without hard links
            temporary.replace(path)
    else:
        temporary.replace(path)
    sync_directory(path.parent)
