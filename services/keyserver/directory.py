"""The directory of certificates: read again when files change, written so that a crash leaves the old file or the new.

An administrator or a key job may add, replace and remove files at any time; a file that is no certificate of the domain
is named in the log once and passed over.
"""

import logging
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from services.keyserver.collection import Collection, Entry, restrict
from stubmail.log import event
from stubmail.openpgp import Certificate, OpenPGPError
from stubmail.openpgp.certificate import MAX_ARMORED
from stubmail.spool import write_durably

SUFFIXES = (".asc", ".pgp", ".gpg")
MAX_FILES = 20_000
RESCAN_SECONDS = 2.0  # how late a file that was changed in place may be noticed
SETTLE_NS = 100_000_000  # a directory changed less than this before it was read may change again in the same tick

_log = logging.getLogger("keyserver")
_Signature = tuple[int, int, int]  # inode, size, time of change: another one means other content
_NONE = (-1, -1, -1)


class Directory:
    """The certificates in ``path`` that belong to ``domain``. Thread-safe; ``clock`` returns seconds."""

    def __init__(self, path: Path, domain: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.domain = domain
        self._clock = clock
        self._lock = threading.RLock()
        self._files: dict[Path, tuple[_Signature, Entry | None]] = {}
        self._collection = Collection()
        self._scanned = -RESCAN_SECONDS
        self._changed_ns = -1

    def current(self) -> Collection:
        """Return all certificates as they are on disk now. Raises OSError when the directory cannot be read."""
        with self._lock:
            changed_ns = self.path.stat().st_mtime_ns
            now = self._clock()
            if changed_ns != self._changed_ns or now - self._scanned >= RESCAN_SECONDS:
                self._scan()
                self._scanned = now
                self._changed_ns = changed_ns if time.time_ns() - changed_ns > SETTLE_NS else -1
            return self._collection

    def store(self, certificate: Certificate) -> None:
        """Write a certificate in place of the one with its fingerprint, or as a new file. Raises OSError."""
        with self._lock:
            path = self._path_of(certificate.fingerprint) or self.path / f"{certificate.fingerprint}.asc"
            write_durably(path, certificate.armored(), mode=0o644)
            self._files[path] = (_signature(path), Entry.of(certificate))
            self._collect()

    def _path_of(self, fingerprint: str) -> Path | None:
        known = ((path, entry.certificate) for path, (_, entry) in self._files.items() if entry)
        return min((path for path, certificate in known if certificate.fingerprint == fingerprint), default=None)

    def _scan(self) -> None:
        files: dict[Path, tuple[_Signature, Entry | None]] = {}
        changed = False
        for path in sorted(self._candidates()):
            signature = _signature(path)
            known = self._files.get(path)
            if known is None or known[0] != signature:
                changed = True
                known = signature, self._read(path)
            files[path] = known
        if changed or files.keys() != self._files.keys():
            self._files = files
            self._collect()
            event(_log, "loaded", self.domain, certificates=len(self._collection))

    def _candidates(self) -> list[Path]:
        found = [path for path in self.path.iterdir() if path.suffix in SUFFIXES and not path.name.startswith(".")]
        if len(found) > MAX_FILES:
            event(_log, "ignored", self.domain, level=logging.ERROR, files=len(found) - MAX_FILES, most=MAX_FILES)
        return sorted(found)[:MAX_FILES]

    def _collect(self) -> None:
        entries: dict[str, Entry] = {}
        for path, (_, entry) in sorted(self._files.items()):
            if entry and entry.certificate.fingerprint in entries:
                fingerprint = entry.certificate.fingerprint
                event(_log, "ignored", fingerprint, level=logging.WARNING, file=path.name, reason="twice")
            elif entry:
                entries[entry.certificate.fingerprint] = entry
        self._collection = Collection(entries.values())

    def _read(self, path: Path) -> Entry | None:
        try:
            if not path.is_file():
                raise OpenPGPError("malformed", "this is not a file")
            with path.open("rb") as file:
                data = file.read(MAX_ARMORED + 1)
            certificate = restrict(Certificate.parse(data), lambda address: address.domain == self.domain)
            return Entry.of(certificate)
        except (OpenPGPError, OSError) as error:
            reason = error.text if isinstance(error, OpenPGPError) else error.strerror
            event(_log, "ignored", path.name, level=logging.WARNING, reason=reason)
            return None


def _signature(path: Path) -> _Signature:
    try:
        status = path.stat()
    except OSError:
        return _NONE  # it went while we looked, or is a link to nowhere
    return status.st_ino, status.st_size if stat.S_ISREG(status.st_mode) else -1, status.st_mtime_ns
