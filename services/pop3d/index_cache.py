"""Indexes lately used, in memory, so that a maildrop which is asked every minute is not even read for its index."""

from collections import OrderedDict
from threading import Lock

from services.pop3d.index_format import Record
from stubmail.mbox.snapshot import Signature

MOST_OCTETS = 64 << 20


class IndexCache:
    """Records by the path of their file, each good only for the file with the signature that it had; thread-safe.

    ``most``: octets that they may take together; the one unused for longest goes first.
    """

    def __init__(self, most: int = MOST_OCTETS) -> None:
        self._most = most
        self._octets = 0
        self._records: OrderedDict[str, tuple[Signature, Record]] = OrderedDict()
        self._lock = Lock()

    def get(self, path: str, seen: Signature) -> Record | None:
        """Return the record of the file that has this signature now, if it is known."""
        with self._lock:
            known = self._records.get(path)
            if known is None or known[0] != seen:
                return None
            self._records.move_to_end(path)
            return known[1]

    def put(self, path: str, seen: Signature, record: Record) -> None:
        """Remember a record; nobody may change it from now on."""
        with self._lock:
            self._forget(path)
            self._records[path] = seen, record
            self._octets += record.size
            while self._octets > self._most:
                self._forget(next(iter(self._records)))

    def _forget(self, path: str) -> None:
        if known := self._records.pop(path, None):
            self._octets -= known[1].size
