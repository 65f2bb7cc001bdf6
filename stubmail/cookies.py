"""A puller's cookies, one file for each account: what lets it ask a store by UDP, and what it had seen there by then.

Losing the file costs nothing but one full check of each store (protocol.md §6.7), so it may be deleted at any time,
also while a puller runs; what cannot be read counts as deleted.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stubmail.address import Address
from stubmail.spool import write_durably

FILE_NAME = "cookies.json"
MAX_FILE = 64 * 2**20  # octets; a larger file is not ours


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last complete listing of a store showed.

    ``serial``: the largest that waited then, from whomever. ``senders``: a digest of the certificates that were asked
    for. ``until``: Unix time of the next full check, made whatever the checks say.
    """

    serial: int
    senders: str
    until: float


@dataclass(frozen=True, slots=True)
class Cookie:
    """A store's cookie: id (16 octets) and key (32 octets); ``seen`` is None until a listing was completed."""

    id: bytes
    key: bytes
    seen: Seen | None = None


def account_directory(state: Path, address: Address) -> Path:
    """Where a puller keeps an account's files below its state directory: under one plain name."""
    return state / quote(address.key, safe="@+=!")


class CookieJar:
    """The cookies of one account, by store URL; safe for threads, and for processes that flush it meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._cookies: dict[str, Cookie] = {}
        self._changed: set[str] = set()
        self._version: object = None

    def refresh(self) -> None:
        """Read the file again if somebody else has changed or deleted it; changes not yet saved stay."""
        with self._mutex:
            self._refresh()

    @property
    def empty(self) -> bool:
        """Whether there is a cookie for no store."""
        with self._mutex:
            return not self._cookies

    def get(self, store: str) -> Cookie | None:
        """Return the cookie for a store, None when there is none."""
        with self._mutex:
            return self._cookies.get(store)

    def put(self, store: str, cookie_id: bytes, key: bytes) -> None:
        """Keep a new cookie in the place of an older one; what was seen at the store stays true."""
        with self._mutex:
            old = self._cookies.get(store)
            self._cookies[store] = Cookie(cookie_id, key, old.seen if old else None)
            self._changed.add(store)

    def saw(self, store: str, seen: Seen) -> None:
        """Note what a complete listing showed; of no use, and dropped, without a cookie."""
        with self._mutex:
            cookie = self._cookies.get(store)
            if cookie is not None:
                self._cookies[store] = replace(cookie, seen=seen)
                self._changed.add(store)

    def save(self) -> None:
        """Write what has changed to disk. Raises OSError."""
        with self._mutex:
            if not self._changed:
                return
            with _locked(self._path):
                self._refresh()
                write_durably(self._path, _format(self._cookies))
                self._version = _version(self._path)
            self._changed.clear()

    def _refresh(self) -> None:
        version = _version(self._path)
        if version == self._version:
            return
        cookies = _read(self._path)
        cookies |= {store: self._cookies[store] for store in self._changed}
        self._cookies, self._version = cookies, version


def flush(path: Path) -> int:
    """Delete all cookies of a jar's file and return how many there were. Raises OSError."""
    if not path.exists():
        return 0
    with _locked(path):
        count = len(_read(path))
        path.unlink(missing_ok=True)
    return count


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing the file between a read and the write that follows from it."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _version(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return "none"
    return status.st_ino, status.st_mtime_ns, status.st_size


def _format(cookies: dict[str, Cookie]) -> bytes:
    table = {
        store: {"id": cookie.id.hex(), "key": cookie.key.hex(), "seen": cookie.seen and asdict(cookie.seen)}
        for store, cookie in cookies.items()
    }
    return json.dumps({"version": 1, "cookies": table}, indent=1).encode()


def _read(path: Path) -> dict[str, Cookie]:
    """Parse the file; whatever is wrong with it, the cookies are gone, which is harmless."""
    try:
        if path.stat().st_size > MAX_FILE:
            return {}
        data = json.loads(path.read_bytes())
        if data["version"] != 1:
            return {}
        return {str(store): _parse(entry) for store, entry in data["cookies"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _parse(entry: dict[str, Any]) -> Cookie:
    seen = entry["seen"]
    cookie = Cookie(
        id=bytes.fromhex(entry["id"]),
        key=bytes.fromhex(entry["key"]),
        seen=seen and Seen(int(seen["serial"]), str(seen["senders"]), float(seen["until"])),
    )
    if len(cookie.id) != 16 or len(cookie.key) != 32:
        raise ValueError("16 and 32 octets wanted")
    return cookie
