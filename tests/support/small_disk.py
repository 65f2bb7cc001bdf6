"""A post manager whose spool, log and all, is a file system of a few megabytes that nobody else sees."""

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.store import Person
from tests.support.store_process import StoreProcess

_MOUNT = 'mkdir -p "$0" && mount -t tmpfs -o "$1" tmpfs "$0" && shift && exec "$@" > "$0/log" 2>&1'


def unshare() -> list[str]:
    """The command that gives a program mounts of its own; the test is skipped where nobody may have them."""
    for flags in (["-m"], ["-r", "-m"]):
        command = ["unshare", *flags]
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0:
                return command
    pytest.skip("neither root nor a user name space: a small file system cannot be mounted")


class SmallDisk(StoreProcess):
    """A store process; ``inside`` is its spool, seen through /proc, because the mount is its own."""

    def __init__(self, root: Path, accounts: Iterable[Person], octets: int, **settings: Any) -> None:
        super().__init__(root, accounts, **settings)
        self._unshare = unshare()
        self._options = f"size={octets},mode=700"

    @property
    def inside(self) -> Path:
        """The spool directory."""
        return Path(f"/proc/{self.pid}/root{self.spool}")

    def text(self) -> str:
        """The log, which is on the small disk."""
        if self._process is None:
            return ""
        path = self.inside / "log"
        return path.read_text() if path.exists() else ""

    def free(self) -> int:
        """Octets that are free."""
        status = os.statvfs(self.inside)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all room but for ``leave`` octets, as another program would."""
        with (self.inside / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while (left := self.free() - leave) > 0:
                file.write(bytes(min(left, 65_536)))

    def clear(self) -> None:
        """Give that room back."""
        (self.inside / "filler").unlink(missing_ok=True)

    def _command(self, *arguments: str) -> list[str]:
        command = super()._command(*arguments)
        return [*self._unshare, "sh", "-c", _MOUNT, str(self.spool), self._options, *command]


@contextlib.contextmanager
def small_disk(root: Path, accounts: Iterable[Person], octets: int, **settings: Any) -> Iterator[SmallDisk]:
    """A store that runs on a disk of so many octets."""
    store = SmallDisk(root, accounts, octets, **settings)
    try:
        store.start()
        yield store
    finally:
        store.close()
