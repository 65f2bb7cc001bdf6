"""Which header belongs to a post: what the gateway notes of messages that it has stored, for notices about them later.

The store has ciphertext alone, so only the sender's side can quote a message's header when a post expires. The gateway
writes ``ROOT/ACCOUNT/START``, a *segment*: the records of what was stored in the four hours from START (Unix time) on.
The puller looks posts up and removes segments of which no post waits any more. A record:

    "stubmail-sent 1 ENVELOPE HEADER" LF    the lengths of what follows, decimal
    JSON: the sender for notices, address and id of each post, and what he gave to be found in notices
    the message's header fields, CRLF

A segment is appended to and removed, never changed. It is not fsynced: a record that a crash loses makes a notice
that quotes less, never one that is missing. What cannot be read ends its segment.
"""

import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stubmail.address import Address, AddressError
from stubmail.cookies import account_directory
from stubmail.dsn import MAX_HEADER
from stubmail.log import event
from stubmail.queue import DEFAULT_SPOOL

DEFAULT_DIRECTORY = DEFAULT_SPOOL / "sent"
SEGMENT_SECONDS = 4 * 3600
SEGMENT_OCTETS = 4 * 2**20  # a fuller one is followed by the next
ACCOUNT_OCTETS = 256 * 2**20
MAX_SEGMENTS = 1000
MAX_AGE = 120 * 86_400  # seconds; four times a post's usual lifetime
SLACK = 900  # seconds by which the clocks of gateway and store may differ, with a margin

_FIRST_LINE = re.compile(rb"stubmail-sent 1 (\d{1,7}) (\d{1,5})\n")
_FIRST_LINE_SIZE = 40  # octets, at most
_MAX_ENVELOPE = 4 * 2**20
_NAME = re.compile(r"\d{12}")
_POST_ID = re.compile(rb'"([0-9a-f]{32})"')

_log = logging.getLogger("sent")


class SentError(ValueError):
    """The octets are not a record."""


@dataclass(frozen=True, slots=True)
class Record:
    """A message that was stored: ``mail_from`` gets notices, None when nobody is to get any; ``posts`` by id; its
    header. ``envid`` and, by id, ``originals``: the parameters ENVID and ORCPT as they came (RFC 3461 §4)."""

    mail_from: Address | None
    posts: tuple[tuple[bytes, Address], ...]
    header: bytes
    utf8: bool = False
    envid: str = ""
    originals: tuple[tuple[bytes, str], ...] = ()

    def to_wire(self) -> bytes:
        """Return the record as it stands in a segment."""
        data: dict[str, object] = {
            "mail_from": str(self.mail_from) if self.mail_from else "",
            "posts": [[post_id.hex(), str(address)] for post_id, address in self.posts],
            "utf8": self.utf8,
        }
        if self.envid or self.originals:
            data["envid"] = self.envid
            data["originals"] = {post_id.hex(): original for post_id, original in self.originals}
        envelope = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        return b"stubmail-sent 1 %d %d\n" % (len(envelope), len(self.header)) + envelope + self.header


class SentLog:
    """Where the gateway notes what one account has stored, below the directory ``root``; for one thread at a time."""

    def __init__(self, root: Path, address: Address) -> None:
        self._directory = account_directory(root, address)
        self._start = 0
        self._size = SEGMENT_OCTETS  # so that the first record begins a segment

    def add(self, records: Sequence[Record], now: float) -> None:
        """Note messages, stored at ``now`` (Unix time). A full disk is told in the log and keeps no mail back."""
        data = b"".join(record.to_wire() for record in records)
        try:
            if self._size >= SEGMENT_OCTETS or not self._start <= now < self._start + SEGMENT_SECONDS:
                self._begin(now)
            self._append(data)
        except OSError as error:
            self._size = SEGMENT_OCTETS  # what stands behind half a record could not be read
            event(_log, "not-noted", level=logging.WARNING, directory=self._directory, reason=error.strerror)

    def _begin(self, now: float) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _bound(self._directory, now)
        self._start = int(now)
        self._size = 0

    def _append(self, data: bytes) -> None:
        path = self._directory / f"{self._start:012d}"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(0, "the disk is full")
        finally:
            os.close(descriptor)
        self._size += len(data)


class SentRecords:
    """What the gateway has noted for one account, read by the puller. Raises OSError from the disk."""

    def __init__(self, root: Path, address: Address) -> None:
        self._directory = account_directory(root, address)

    def find(self, ids: Collection[bytes], since: float) -> dict[bytes, Record]:
        """Return the records of posts by id, as far as there are any; the posts were stored at ``since`` or later."""
        wanted = {post_id.hex().encode() for post_id in ids}
        found: dict[bytes, Record] = {}
        for start, path in _segments(self._directory):
            if not wanted:
                break
            if start + SEGMENT_SECONDS + SLACK < since:
                continue
            with suppress(FileNotFoundError, SentError):
                for envelope, header in _read_segment(path):
                    if hits := wanted.intersection(_POST_ID.findall(envelope)):
                        wanted -= hits
                        found |= dict.fromkeys((bytes.fromhex(hit.decode()) for hit in hits), _parse(envelope, header))
        return found

    def has_before(self, time: float) -> bool:
        """Tell whether ``forget_before`` would remove something."""
        return any(start + SEGMENT_SECONDS + SLACK <= time for start, _ in _segments(self._directory))

    def forget_before(self, time: float) -> int:
        """Remove what was noted of messages stored before ``time``, in whole segments; return how many went."""
        old = [path for start, path in _segments(self._directory) if start + SEGMENT_SECONDS + SLACK <= time]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)


def _read_segment(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield envelope and header of each record of a segment. Raises OSError, and SentError at what cannot be read."""
    with path.open("rb") as file:
        while line := file.readline(_FIRST_LINE_SIZE):
            match = _FIRST_LINE.fullmatch(line)
            if match is None or int(match[1]) > _MAX_ENVELOPE or int(match[2]) > MAX_HEADER:
                raise SentError("this is not the beginning of a record")
            envelope, header = file.read(int(match[1])), file.read(int(match[2]))
            if len(envelope) != int(match[1]) or len(header) != int(match[2]):
                raise SentError("the record is cut short")
            yield envelope, header


def _parse(envelope: bytes, header: bytes) -> Record:
    try:
        members: dict[str, Any] = json.loads(envelope)
        posts = tuple((bytes.fromhex(post_id), Address.parse(address)) for post_id, address in members["posts"])
        originals = tuple((bytes.fromhex(each), str(text)) for each, text in members.get("originals", {}).items())
        mail_from = Address.parse(members["mail_from"]) if members["mail_from"] else None
        return Record(mail_from, posts, header, members["utf8"] is True, str(members.get("envid", "")), originals)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, AddressError) as error:
        raise SentError(f"this is not a record: {error}") from error


def _segments(directory: Path) -> list[tuple[int, Path]]:
    """The segments of an account, oldest first, each with the time at which it begins."""
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return [(int(name), directory / name) for name in sorted(names) if _NAME.fullmatch(name)]


def _bound(directory: Path, now: float) -> None:
    """Remove the oldest segments, so that another one finds room within the bounds of age, number and octets."""
    segments = _segments(directory)
    sizes = list(_sizes(path for _, path in segments))
    octets, count = sum(sizes), len(segments)
    for (start, path), size in zip(segments, sizes, strict=True):
        if now - start <= MAX_AGE and octets <= ACCOUNT_OCTETS - SEGMENT_OCTETS and count < MAX_SEGMENTS:
            break
        path.unlink(missing_ok=True)
        octets -= size
        count -= 1


def _sizes(paths: Iterable[Path]) -> Iterator[int]:
    for path in paths:
        try:
            yield path.stat().st_size
        except FileNotFoundError:
            yield 0
