"""Room on the spool's disk: new posts leave enough of it that what frees room, an acknowledgement, can be written."""

import contextlib
import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from services.post_manager.storage.database import Database
from services.post_manager.storage.engines import JOURNAL
from services.post_manager.storage.errors import StorageFull


@dataclass(frozen=True, slots=True)
class Room:
    """Where uploads wait, octets of that disk to leave free, and the SQLite file, if it is one."""

    incoming: Path
    reserve: int
    file: Path | None = None

    def check(self, octets: int, database: Database) -> None:
        """Raise StorageFull unless there is room for posts of so many octets, and the reserve besides."""
        if self.file is None:
            # Once as it comes in, once in the database, should it be on this disk.
            short = self._free() < self.reserve + 2 * octets
        else:
            # As it comes in, in the journal, and in the file, where the journal's older content may have to go as well.
            growth = octets + self._journal()
            short = self._free() < self.reserve + 2 * octets + growth
            if short:
                if growth - octets > JOURNAL:
                    _empty_journal(self.file)
                    growth = octets + self._journal()
                growth -= min(growth, _reusable(database))
                short = self._free() < self.reserve + 2 * octets + growth
        if short:
            text = f"{self._free()} octets are free, {self.reserve} of them in reserve, {octets} are to be stored"
            raise StorageFull(text)

    def _free(self) -> int:
        return shutil.disk_usage(self.incoming).free

    def _journal(self) -> int:
        try:
            return os.stat(f"{self.file}-wal").st_size  # noqa: PTH116 - each request asks; a Path would take longer
        except FileNotFoundError:
            return 0


def _empty_journal(file: Path) -> None:
    """Move what the journal holds into the file, which nobody did since a long read kept it from growing smaller."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(file, timeout=0)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()


def _reusable(database: Database) -> int:
    """Octets of an SQLite file that nothing uses now: what was deleted does not make the file smaller."""
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    return int(pages) * int(size)
