"""Damage to an SQLite file, as a disk does it."""

import contextlib
import os
import sqlite3
from pathlib import Path

from tests.support.waiting import wait_until


def spoil(path: Path, table: str) -> None:
    """Overwrite the first page of a table or an index, in a file that may be in use."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        wait_until(lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, b"\xa5" * size, (page - 1) * size)
    os.close(descriptor)
